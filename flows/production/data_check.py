"""What `alter data` does: domains ingested and validated one after another, and what a person is told of each."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alter_core.data.dataset import SPLITS
from alter_core.errors import AlterError, QualityBlocked
from alter_core.problems import counted
from alter_core.quality.page import WORDS, write_report
from alter_core.whole import write_json
from flows.production.display import Display, plain_console
from flows.production.exit_codes import DATA_BLOCKED, DATA_WARNED
from flows.production.plan import Plan, named_once

if TYPE_CHECKING:
    from alter_core.quality.report import QualityReport
    from alter_core.quality.task import Item

SHOWN_ROWS = 3  # of a warning; all that were found stand on the page
LEFT_OUT: Mapping[str, Literal["filtered", "duplicates", "leakage", "contradicting", "over_limit"]] = {
    "- where": "filtered",
    "- duplicates": "duplicates",
    "- leakage": "leakage",
    "- contradicting": "contradicting",
    "- limit": "over_limit",
}
"""Column of the table -> why rows are left out, as the report calls it."""
WIDTH = 160  # of what is written where no terminal says its own


@dataclass(frozen=True)
class Checked:
    """How one domain's data was found."""

    domain: str
    error: AlterError | None
    """Why its rows cannot be used; None where at most warnings were found."""
    report: "QualityReport | None" = None
    """None where it did not come to a report."""
    page: Path | None = None

    @property
    def exit_code(self) -> int:
        """One of `exit_codes.OF_DATA`."""
        if isinstance(self.error, QualityBlocked):
            return DATA_BLOCKED
        if self.error is not None:
            return self.error.exit_code
        return DATA_WARNED if self.report and self.report.outcome == "warn" else 0

    def to_json(self) -> dict[str, Any]:
        ending = {"domain": self.domain, "exit_code": self.exit_code, "error": str(self.error) if self.error else None}
        page = {"page": str(self.page) if self.page else None}
        return {**(self.report.to_json() if self.report else {}), **ending, **page}


def check_each(
    domains: Sequence[str], data_root: Path | None, display: Display, on_end: Callable[[Checked], None]
) -> list[Checked]:
    """Check the domains in turn; `on_end` hears of each as it ends. One whose rows or spec are wrong stops no other."""
    found = []
    taken: dict[str, Path] = {}
    for given in domains:
        try:
            plan = Plan.read(given, data_root)
            named_once(plan.spec, plan.file, taken)
            one = _check(plan, display)
        except AlterError as error:
            one = Checked(given, error)
        on_end(one)
        found.append(one)
    return found


def _check(plan: Plan, display: Display) -> Checked:
    from alter_core.backbone import find_reader
    from alter_core.data.ingest import ingest
    from alter_core.quality.report import validate

    name = plan.spec.name

    def follow(phase: str) -> Callable[..., None]:
        return lambda done, total, **fields: display.update(f"{name}: {phase}", done, total, fields)

    tokenizer, config = find_reader(plan.spec.backbone, plan.workspace, plan.folder)
    dataset = ingest(plan.spec, plan.folder, plan.workspace, plan.data_root, follow("ingest"))
    report = validate(dataset, plan.spec, tokenizer, progress=follow("validate"), config=config)
    folder = plan.run_folder("data")
    page = write_report(report, folder)
    write_json(folder / "quality.json", report.to_json())
    blocked = None
    try:
        report.raise_if_blocked()
    except QualityBlocked as error:
        blocked = error
    return Checked(name, blocked, report, page)


def checked_json(found: Sequence[Checked]) -> str:
    """Every domain's report for programs."""
    return json.dumps([one.to_json() for one in found], indent=2, default=str)


def print_checked(one: Checked) -> None:
    """A domain's report for people, but for what is blocked: that is the error's text."""
    if one.report is None:
        return
    out = plain_console(None if sys.stdout.isatty() else WIDTH)
    report = one.report
    total = sum(sum(task["rows"].values()) for task in report.tasks.values())
    held = f"{counted(total, 'row')} of {counted(len(report.tasks), 'task')}"
    out.print(f"\n{one.domain}: {held}; the data {WORDS[report.outcome]}")
    out.print(_rows_table(report))
    out.print(_licences(report))
    for line in _tidied(report):
        out.print(line)
    for item in report.wrong("unchecked"):
        out.print(f"not checked: {item.task}: {item.text}; {item.remedy}")
    for item in report.wrong("warn"):
        out.print(_warning(item))
    out.print(f"data {report.digest}; the whole report is {one.page}")


def _rows_table(report: "QualityReport") -> Table:
    """Rows in, rows left out by reason, and rows out: what is left out and what is kept come to what was read."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("task", "type"):
        table.add_column(column, overflow="fold")
    for column in ("rows in", *LEFT_OUT, *SPLITS):
        table.add_column(column, justify="right")
    for name, task in report.tasks.items():
        out = [task[key] for key in LEFT_OUT.values()]
        numbers = [task["read"] + task["filtered"], *out, *(task["rows"][split] for split in SPLITS)]
        table.add_row(name, task["type"], *[f"{number:,}" for number in numbers])
    return table


def _licences(report: "QualityReport") -> str:
    tasks = defaultdict(list)
    for name, task in report.tasks.items():
        tasks[task["licence"] or "not stated"].append(name)
    return "\n".join(f"licence of {', '.join(names)}: {licence}" for licence, names in tasks.items())


def _tidied(report: "QualityReport") -> list[str]:
    """What tidying changed that may carry meaning; where the spec says nothing of it, it warns as well."""
    return [
        f"tidied: {name}: "
        + ", ".join(f"{what} in {counted(rows, 'row')}" for what, rows in sorted(task["tidied"].items()))
        for name, task in report.tasks.items()
        if task["tidied"]
    ]


def _warning(item: "Item") -> str:
    lines = [f"warning: {item.task}: {item.text}", f"  {item.remedy}"]
    lines += [f"    {row}" for row in item.rows[:SHOWN_ROWS]]
    if len(item.rows) > SHOWN_ROWS:
        lines.append(f"    and {len(item.rows) - SHOWN_ROWS} more on the page")
    return "\n".join(lines)
