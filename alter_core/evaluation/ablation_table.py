"""What an ablation found: one table as JSON, Markdown and a plot, and the paired difference that decides it.

Intervals resample seeds, and within a seed rows of each task: both kinds of luck are in them. The best MTA arm and the
best baseline are chosen by validation rows, so that choosing cannot flatter the test score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from alter_core.evaluation.arms import Arm
from alter_core.evaluation.metrics import RESAMPLES, Interval, interval
from alter_core.evaluation.trials import Trial
from alter_core.spec import DomainSpec
from alter_core.workspace import write_json, written_whole

Facts = dict[str, Any]
Scores = Mapping[str, Float[ndarray, "seed row"]]
"""Row scores by task."""


@dataclass(frozen=True)
class Tuned:
    """An arm's choice of rate."""

    rate: float | None
    grid: Mapping[float, float]
    """Macro score on validation rows, at the first seed, by rate."""
    at_edge: bool
    """The best rate is the grid's last."""


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
        held = trials[arm.name]
        if not held:
            continue
        cards = [trial.test() for trial in held]
        checks = [trial.validation() for trial in held]
        scores[arm.name] = row_table(cards)
        spread = resampled_macro(scores[arm.name], spec.seed)
        tables.append(
            {
                "name": arm.name,
                "title": arm.title,
                "family": arm.family,
                "macro": interval(macro(scores[arm.name]), spread).to_json(),
                "tasks": {
                    name: interval(float(table.mean()), resampled_macro({name: table}, spec.seed)).to_json()
                    for name, table in scores[arm.name].items()
                },
                "macro_by_seed": [
                    macro({n: t[i : i + 1] for n, t in scores[arm.name].items()}) for i in range(len(held))
                ],
                "validation": float(np.mean([check["macro"]["value"] for check in checks])),
                "seeds": [trial.seed for trial in held],
                "rate": held[0].rate,
                "rate_at_edge": tuned[arm.name].at_edge,
                "grid": {f"{rate:g}": score for rate, score in tuned[arm.name].grid.items()},
                "trained_parameters": checks[0]["cost"]["trained_parameters"],
                "seconds": float(np.mean([check["cost"]["seconds"] for check in checks])),
                "cost": checks[0]["cost"],
                "precision": sorted({check["precision"] for check in checks if check["precision"]}),
                "difference": None,
            }
        )
    metrics = {task.name: task.effective_metrics[0] for task in spec.tasks}
    table: Facts = {"domain": spec.name, "settings": dict(settings), "metrics": metrics, "arms": tables}
    whole = _whole(tables)
    ours, theirs = _best(whole, "mta"), _best(whole, "baseline")
    for row in whole:
        if theirs and row is not theirs:
            difference = paired_difference(scores[row["name"]], scores[theirs["name"]], spec.seed)
            row["difference"] = difference.to_json()
    table["comparison"] = None
    if ours and theirs:
        table["comparison"] = {"mta": ours["name"], "baseline": theirs["name"], **ours["difference"]}
    return table


def row_table(cards: Sequence[Mapping[str, Any]]) -> dict[str, Float[ndarray, "seed row"]]:
    """Row scores of several scorecards of the same rows, by task; rows in the order of their ids."""
    return {
        task: np.array([[card["row_scores"][task][row] for row in sorted(first)] for card in cards])
        for task, first in cards[0]["row_scores"].items()
    }


def macro(scores: Scores) -> float:
    """Mean over tasks of the mean over seeds and rows."""
    return float(np.mean([table.mean() for table in scores.values()]))


def resampled_macro(scores: Scores, seed: int, stream: int = 0, count: int = RESAMPLES) -> Float[ndarray, " resample"]:
    """The macro score of each resample of seeds and rows.

    The same `seed` draws the same rows for every arm; another `stream` draws other seeds, since arms are trained apart.
    """
    rows = np.random.default_rng([seed, 0])
    runs = len(next(iter(scores.values())))
    picked = np.random.default_rng([seed, 1, stream]).integers(0, runs, (count, runs))
    total = np.zeros(count)
    for name in sorted(scores):
        table = scores[name]
        chosen = rows.integers(0, table.shape[1], (count, table.shape[1]))
        weights = np.zeros((count, runs))
        np.add.at(weights, (np.arange(count)[:, None], picked), 1 / runs)
        per_run = np.stack([table[run][chosen].mean(1) for run in range(runs)], 1)  # resample, seed
        total += (weights * per_run).sum(1)
    return total / len(scores)


def paired_difference(ours: Scores, theirs: Scores, seed: int) -> Interval:
    """Macro difference, ours less theirs, with the interval of resampled seeds and paired rows."""
    spread = resampled_macro(ours, seed) - resampled_macro(theirs, seed, stream=1)
    return interval(macro(ours) - macro(theirs), spread)


def write_table(folder: Path, table: Facts) -> None:
    """ablation.json, ablation.md and ablation.png in `folder`."""
    write_json(folder / "ablation.json", table)
    with written_whole(folder / "ablation.md") as path:
        path.write_text(to_markdown(table), encoding="utf-8")
    with written_whole(folder / "ablation.png") as path:
        _plot(table, path)


def to_markdown(table: Facts) -> str:
    """The table, and one sentence on what it shows."""
    tasks = list(table["metrics"])
    head = ["arm", "macro", "against the best baseline", *tasks, "seeds", "rate", "trained parameters", "seconds"]
    lines = [f"# Ablation of {table['domain']}", "", _shared(table["settings"]), ""]
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
    luck = "seeds and rows" if table["settings"]["seeds"] > 1 else "rows; how seeds differ is not in them"
    lines += ["", f"Scores are means over seeds on the same test rows ({metrics}); intervals are 95 %, over {luck}."]
    computed = sorted({precision for arm in table["arms"] for precision in arm["precision"]})
    mixed = ", by the machine that a trial ran on" if len(computed) > 1 else ""
    lines += [f"Trials computed in {' and '.join(computed)}{mixed}."] if computed else []
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


def _shared(settings: Mapping[str, Any]) -> str:
    rows = {split: settings[f"{split}_rows"].values() for split in ("train", "validation", "test")}
    train = f"{min(rows['train']):,} to {max(rows['train']):,}"
    patience = settings["patience"]
    stop = f", stopped after {patience} validation scores without a better one" if patience else ""
    return (
        f"{len(rows['train'])} tasks of {train} training rows, {sum(rows['validation']):,} validation and "
        f"{sum(rows['test']):,} test rows in all. Every arm takes {settings['steps']:,} steps of "
        f"{settings['rows_per_step']} rows{stop}. "
        f"{_choice_of_rate(settings)}"
    )


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


def _plot(table: Facts, path: Path) -> None:
    from matplotlib.figure import Figure

    arms = table["arms"][::-1]
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(arms):
        value = arm["macro"]
        colour = "#0b6e4f" if arm["family"] == "mta" else "#5b6472"
        axes.plot([value["low"], value["high"]], [place, place], color=colour, linewidth=2.5, alpha=0.55)
        axes.plot(arm["macro_by_seed"], [place] * len(arm["macro_by_seed"]), ".", color=colour, alpha=0.5, markersize=5)
        axes.plot([value["value"]], [place], "o", color=colour, markersize=8)
        axes.annotate(f"{value['value']:.3f}", (value["value"], place), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(arms)), [arm["title"] for arm in arms])
    axes.set_ylim(-0.6, len(arms) - 0.2)
    axes.set_xlabel(f"macro score on the test rows of {table['domain']} (mean, 95 % interval, seeds)")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=150)
