"""What a finished run says: the table per task, what stage two cost, and what to do next."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.table import Table

from flows.production.display import plain_console
from flows.production.outcome import Outcome, Status
from registry.calibration import calibration_lines
from registry.costs import MEASURES, Cost, share
from registry.scorecard import (
    Scorecards,
    against_bag_of_words,
    known_limits,
    macro_of,
    number,
    own_scorecard,
    own_subject,
    score_of,
    shown_subjects,
)
from registry.versions import Version


def print_outcome(outcome: Outcome, domain: str) -> None:
    """The result of one run, on stdout."""
    out = plain_console()
    name, version = outcome.domain, outcome.version
    if outcome.status == "unchanged":
        place = ", ".join(outcome.aliases or ()) or "under no alias"
        out.print(
            f"{name}: unchanged; version {version} was made of the same, and is {place} ({outcome.seconds:.0f} s)"
        )
    else:
        cards = outcome.scorecards
        out.print(_score_table(cards))
        if line := against_bag_of_words(cards):
            out.print(line)
        if line := stage_two_cost(outcome.costs or {}):
            out.print(line)
        for line in calibration_lines(own_scorecard(cards)):
            out.print(f"calibration: {line}")
        for limit in known_limits(cards):
            out.print(f"limit: {limit}")
        out.print(
            f"\nregistered {name} version {version}{_became(outcome)}: {outcome.reason} ({outcome.seconds:.0f} s)"
        )
    out.print(_next_commands(domain, outcome))


def _score_table(cards: Scorecards) -> Table:
    shown = shown_subjects(cards)
    *others, _ = shown
    table = Table("task", "metric", title="Score on held-out rows", title_justify="left")
    for subject in shown:
        table.add_column(subject.label, justify="right")
    own = own_subject(cards)
    for task, score in cards[own]["tasks"].items():
        mine = score["metrics"][score["metric"]]
        cells = [number(score_of(cards, one.key, task)) for one in others]
        interval = f"{number(mine['value'])} ({mine['low']:.2f} to {mine['high']:.2f})"
        table.add_row(task, score["metric"], *cells, interval)
    table.add_section()
    table.add_row("macro", "", *(number(macro_of(cards, one.key)) for one in shown))
    return table


def stage_two_cost(costs: Mapping[str, Cost]) -> str:
    """Stage two's cost beside stage one's; empty when there is no stage two."""
    if "stage_two" not in costs:
        return ""
    one, two = costs["stage_one"], costs["stage_two"]
    parts = []
    for measure in (each for each in MEASURES if two.get(each.key) is not None):
        ratio = share(measure, two, one)
        spent, before = (measure.shown(cost, unit=True) for cost in (two, one))
        parts.append(f"{measure.label} {spent} of stage one's {before}" + (f" ({ratio})" if ratio else ""))
    return "stage two cost: " + "; ".join(parts)


def _next_commands(domain: str, outcome: Outcome) -> str:
    return (
        f"\nnext:\n{_waiting(domain, outcome.status)}"
        f"  alter predict {domain} --task TASK TEXT     answer with the champion\n"
        f"  alter models {outcome.domain}                   list versions\n"
        "  alter ui                              browse runs, cards and data in MLflow"
    )


def _became(outcome: Outcome) -> str:
    return ", which waits for approval" if outcome.status == "waiting" else f" as {outcome.status}"


def _waiting(domain: str, status: Status) -> str:
    """What a person may do about a candidate that the promotion rule said no to, or that waits for a word."""
    if status == "waiting":
        return (
            f"  alter compare {domain} champion review      see both side by side\n"
            f"  alter promote {domain} --reason TEXT        approve it: it is champion then\n"
            f"  alter reject {domain} --reason TEXT         say no\n"
        )
    if status != "candidate":
        return ""
    return (
        f"  alter compare {domain} champion challenger  see both side by side\n"
        f"  alter promote {domain} --reason TEXT        make it champion all the same\n"
    )


def versions_json(rows: Sequence[Version]) -> str:
    """Registered versions for programs."""
    keys = ("name", "version", "aliases", "macro", "created")
    return json.dumps([{key: dict(row)[key] for key in keys} for row in rows], indent=2)


def print_versions(rows: Sequence[Version]) -> None:
    """Registered versions as a table."""
    out = plain_console()
    if not rows:
        out.print("no model is registered yet; `alter run DOMAIN` makes one")
        return
    table = Table("name", "version", "aliases", "macro", "created (UTC)")
    for row in rows:
        created = datetime.fromtimestamp(row["created"] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        macro = "" if row["macro"] is None else f"{row['macro']:.3f}"
        table.add_row(row["name"], str(row["version"]), ", ".join(row["aliases"]), macro, created)
    out.print(table)
