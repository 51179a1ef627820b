"""What an ablation found: one table as JSON, Markdown and a plot, and the paired difference that decides it.

The best MTA arm and the best baseline are chosen by validation rows, so that choosing cannot flatter the test score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alter_core.ablation.arms import Arm
from alter_core.ablation.intervals import Scores, macro, macro_interval, paired_difference, row_table
from alter_core.ablation.plot import draw
from alter_core.ablation.trials import Trial
from alter_core.evaluation.metrics import of_rows
from alter_core.spec import DomainSpec
from alter_core.whole import write_json, written_whole

Facts = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """An arm's choice of rate."""

    rate: float | None
    grid: Mapping[float, float | None]
    """Macro score on validation rows, at the first seed, by rate; None where training diverged."""
    at_edge: bool
    """The best rate is the grid's lowest or highest."""


def summarise(
    spec: DomainSpec,
    arms: Sequence[Arm],
    trials: Mapping[str, Sequence[Trial]],
    tuned: Mapping[str, Tuned],
    settings: Mapping[str, Any],
) -> Facts:
    """The table of the arms that have trials. settings: what all arms share, for the reader."""
    tables = []
    scores: dict[str, Scores] = {}
    for arm in arms:
        held = [trial for trial in trials[arm.name] if trial.score() > -math.inf]
        if not held:
            continue
        cards = [trial.test() for trial in held]
        checks = [trial.validation() for trial in held]
        scores[arm.name] = row_table(cards)
        tables.append(
            {
                "name": arm.name,
                "title": arm.title,
                "family": arm.family,
                "macro": asdict(macro_interval(scores[arm.name])),
                "tasks": {name: asdict(macro_interval({name: table})) for name, table in scores[arm.name].items()},
                "macro_by_seed": [
                    macro({n: t[i : i + 1] for n, t in scores[arm.name].items()}) for i in range(len(held))
                ],
                "validation": float(np.mean([check["macro"]["value"] for check in checks])),
                "seeds": [trial.seed for trial in held],
                "diverged": [trial.seed for trial in trials[arm.name] if trial not in held],
                "rate": held[0].rate,
                "rate_at_edge": tuned[arm.name].at_edge,
                "grid": {f"{rate:g}": score for rate, score in tuned[arm.name].grid.items()},
                "trained_parameters": checks[0]["cost"]["trained_parameters"],
                "rows": sum(part["rows"] for part in checks[0]["cost"].values() if isinstance(part, Mapping)),
                "seconds": float(np.mean([check["cost"]["seconds"] for check in checks])),
                "cost": checks[0]["cost"],
                "precision": sorted({check["precision"] for check in checks if check["precision"]}),
                "difference": None,
            }
        )
    metrics = {task.name: of_rows(task.effective_metrics[0]) for task in spec.tasks}
    table: Facts = {"domain": spec.name, "settings": dict(settings), "metrics": metrics, "arms": tables}
    whole = _whole(tables)
    ours, theirs = _best(whole, "mta"), _best(whole, "baseline")
    for row in whole:
        if theirs and row is not theirs:
            row["difference"] = asdict(paired_difference(scores[row["name"]], scores[theirs["name"]]))
    table["comparison"] = None
    if ours and theirs:
        table["comparison"] = {"mta": ours["name"], "baseline": theirs["name"], **ours["difference"]}
    return table


def write_table(folder: Path, table: Facts) -> None:
    """ablation.json, ablation.md and ablation.png in `folder`."""
    write_json(folder / "ablation.json", table)
    with written_whole(folder / "ablation.md") as path:
        path.write_text(to_markdown(table), encoding="utf-8")
    with written_whole(folder / "ablation.png") as path:
        draw(table).savefig(path, format="png", dpi=150)


def to_markdown(table: Facts) -> str:
    """The table, and one sentence on what it shows."""
    tasks = list(table["metrics"])
    head = ["arm", "macro", "against the best baseline", *tasks, "seeds", "rate", "trained parameters", "seconds"]
    lines = [f"# Ablation of {table['domain']}", "", _shared(table["settings"], table["arms"]), ""]
    lines += [_row(head), _row(["---"] * len(head))]
    for arm in table["arms"]:
        value = arm["macro"]
        rate = "" if arm["rate"] is None else f"{arm['rate']:g}" + (" (edge)" if arm["rate_at_edge"] else "")
        lines.append(
            _row(
                [
                    arm["title"],
                    f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})",
                    _signed(arm["difference"]) if arm["difference"] else "",
                    *[f"{arm['tasks'][task]['value']:.3f}" for task in tasks if task in arm["tasks"]],
                    str(len(arm["seeds"])),
                    rate,
                    f"{arm['trained_parameters']:,}",
                    f"{arm['seconds']:.0f}",
                ]
            )
        )
    metrics = ", ".join(f"{task}: {metric}" for task, metric in table["metrics"].items())
    seeds = [len(arm["seeds"]) for arm in table["arms"] if arm["rate"] is not None]
    several = max(seeds, default=1) > 1
    luck = "seeds and rows" if several else "rows; how seeds differ is not in them"
    if several and 1 in seeds:
        luck += "; of arms with one seed, over rows alone"
    lines += ["", f"Scores are means over seeds on the same test rows ({metrics}); intervals are 95 %, over {luck}."]
    computed = sorted({precision for arm in table["arms"] for precision in arm["precision"]})
    lines += [f"Trials computed in {' and '.join(computed)}."] if computed else []
    lines += [
        f"{arm['title']} diverged at seed {', '.join(map(str, arm['diverged']))}."
        + ("" if arm in _whole(table["arms"]) else " Its other seeds are not compared.")
        for arm in table["arms"]
        if arm["diverged"]
    ]
    lines += ["Seconds are those of one training's steps.", "", reading(table)]
    return "\n".join(lines) + "\n"


def reading(table: Facts) -> str:
    """What the comparison says, in one sentence."""
    found = table["comparison"]
    if found is None:
        return "No comparison yet: an MTA arm and a baseline are needed."
    titles = {arm["name"]: arm["title"] for arm in table["arms"]}
    ours, theirs = titles[found["mta"]], titles[found["baseline"]]
    span = f"{_signed(found)} macro, paired"
    if found["low"] > 0:
        return f"{ours} is ahead of the best baseline, {theirs}: {span}."
    if found["high"] < 0:
        return f"{ours} is behind the best baseline, {theirs}: {span}."
    return f"{ours} and the best baseline, {theirs}, cannot be told apart: {span}."


def _shared(settings: Mapping[str, Any], arms: Sequence[Facts]) -> str:
    rows = {split: settings[f"{split}_rows"].values() for split in ("train", "validation", "test")}
    train = f"{min(rows['train']):,} to {max(rows['train']):,}"
    patience = settings["patience"]
    stop = f", stopped after {patience} validation scores without a better one" if patience else ""
    return (
        f"{len(rows['train'])} tasks of {train} training rows, {sum(rows['validation']):,} validation and "
        f"{sum(rows['test']):,} test rows in all. Every arm takes {settings['steps']:,} steps of "
        f"{settings['rows_per_step']} rows{stop}. "
        f"{_others(settings, arms)}{_choice_of_rate(settings)}"
    )


def _others(settings: Mapping[str, Any], arms: Sequence[Facts]) -> str:
    """The arms that were trained on clearly more or fewer rows than all are said to be."""
    wanted = settings["steps"] * settings["rows_per_step"]
    if settings["patience"]:  # each stops where it stops
        return ""
    other = [arm for arm in arms if arm["rate"] is not None and abs(arm["rows"] - wanted) > 0.01 * wanted]
    told = ", ".join(f"{arm['title']} ({arm['rows']:,} rows in all for {wanted:,})" for arm in other)
    return f"But {told}. " if told else ""


def _choice_of_rate(settings: Mapping[str, Any]) -> str:
    rates, widened = settings["rates"], settings["widened"]
    grid = ", ".join(f"{rate:g}" for rate in rates)
    if len(rates) == 1 and not widened:
        return f"Its rate is {grid}, the same for every arm and tuned for none on these rows."
    source = f"a grid that begins with {grid} and is widened until no arm is best at its edge" if widened else grid
    return f"Its rate is the best on validation rows at the first seed, of {source}."


def _signed(value: Mapping[str, float]) -> str:
    return f"{value['value']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"


def _whole(tables: Sequence[Facts]) -> list[Facts]:
    """Arms with all the seeds that any has: of fewer, the interval would leave out a kind of luck that others show."""
    most = max((len(arm["seeds"]) for arm in tables), default=0)
    return [arm for arm in tables if len(arm["seeds"]) == most or arm["rate"] is None]


def _best(tables: Sequence[Facts], family: str) -> Facts | None:
    own = [arm for arm in tables if arm["family"] == family]
    return max(own, key=lambda arm: arm["validation"]) if own else None


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
