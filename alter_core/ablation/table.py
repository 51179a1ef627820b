"""What an ablation found: one table, also in words, and the paired difference that decides it.

The best MTA arm and the best baseline are chosen by validation rows, so that choosing cannot flatter the test score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alter_core.ablation.arms import Arm, Family
from alter_core.ablation.intervals import (
    Scores,
    macro,
    macro_interval,
    paired_by_seed,
    paired_difference,
    row_table,
    seed_table,
)
from alter_core.ablation.losses import RowLosses
from alter_core.ablation.trials import SPLITS, Split, Trial, WrittenCost
from alter_core.evaluation.metrics import Interval, of_rows
from alter_core.spec import DomainSpec
from alter_core.whole import Result


@dataclass(frozen=True)
class Settings:
    """What all arms share, for the reader."""

    train_rows: Mapping[str, int]
    """Of each task; likewise those that are scored."""
    validation_rows: Mapping[str, int]
    test_rows: Mapping[str, int]
    steps: int
    rows_per_step: int
    seeds: int
    rates: tuple[float, ...]
    widened: bool
    """The grid may have grown beyond `rates`."""
    patience: int | None


@dataclass(frozen=True)
class LossTable:
    """An arm's loss on the rows that it is scored on, in nats: the mean over tasks of that of their rows."""

    mean: Mapping[Split, float]
    against: Mapping[str, Mapping[Split, Interval]]
    """Arm -> how much larger this one's loss is, paired by seed and row: below zero is better."""


@dataclass(frozen=True)
class ArmRow:
    """An arm's row in the table, over its seeds."""

    name: str
    title: str
    family: Family
    macro: Interval
    tasks: Mapping[str, Interval]
    macro_by_seed: tuple[float, ...]
    validation: float
    """Macro score on validation rows."""
    seeds: tuple[int, ...]
    rate: float | None
    """None for an arm that trains nothing."""
    rate_at_edge: bool
    grid: Mapping[str, float | None]
    """As Tuned has it."""
    trained_parameters: int
    seconds: float
    """Of one training's steps."""
    cost: WrittenCost
    """At the first seed."""
    precision: tuple[str, ...]
    """Those that trials computed in."""
    diverged: tuple[int, ...] = ()
    """Seeds that gave no score."""
    rows: int | None = None
    """Trained on, at the first seed; None where an earlier release did not say."""
    difference: Interval | None = None
    """To the best baseline, paired; of arms that have all seeds."""
    losses: LossTable | None = None
    """None for an arm that trains nothing, and where an earlier release did not take them."""


@dataclass(frozen=True)
class Comparison(Interval):
    """What decides: the best MTA arm less the best baseline."""

    mta: str
    baseline: str


@dataclass(frozen=True)
class Table(Result):
    """What an ablation found, as ablation.json has it."""

    domain: str
    settings: Settings
    metrics: Mapping[str, str]
    """That each task's rows are scored by."""
    arms: tuple[ArmRow, ...]
    comparison: Comparison | None

    def to_json(self) -> dict[str, Any]:
        arms = [{**asdict(arm), "cost": arm.cost.to_json()} for arm in self.arms]
        return {**super().to_json(), "arms": arms}


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
    settings: Settings,
) -> Table:
    """The table of the arms that have trials."""
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
            ArmRow(
                name=arm.name,
                title=arm.title,
                family=arm.family,
                macro=macro_interval(scores[arm.name]),
                tasks={name: macro_interval({name: table}) for name, table in scores[arm.name].items()},
                macro_by_seed=tuple(
                    macro({n: t[i : i + 1] for n, t in scores[arm.name].items()}) for i in range(len(held))
                ),
                validation=float(np.mean([trial.score() for trial in held])),
                seeds=tuple(trial.seed for trial in held),
                diverged=tuple(trial.seed for trial in trials[arm.name] if trial not in held),
                rate=held[0].rate,
                rate_at_edge=tuned[arm.name].at_edge,
                grid={f"{rate:g}": score for rate, score in tuned[arm.name].grid.items()},
                trained_parameters=checks[0].cost.trained_parameters,
                rows=sum(stage.rows for stage in checks[0].cost.stages.values()),
                seconds=float(np.mean([check.cost.seconds for check in checks])),
                cost=checks[0].cost,
                precision=tuple(sorted({check.precision for check in checks if check.precision})),
            )
        )
    metrics = {task.name: of_rows(task.effective_metrics[0]) for task in spec.tasks}
    whole = _whole(tables)
    ours, theirs = best_of(whole, "mta"), best_of(whole, "baseline")
    differences = {
        row.name: paired_difference(scores[row.name], scores[theirs.name])
        for row in whole
        if theirs and row is not theirs
    }
    comparison = None
    if ours and theirs:
        comparison = Comparison(**asdict(differences[ours.name]), mta=ours.name, baseline=theirs.name)
    losses = _losses({row.name: trials[row.name] for row in tables}, theirs, tables)
    rows = tuple(replace(row, difference=differences.get(row.name), losses=losses.get(row.name)) for row in tables)
    return Table(spec.name, settings, metrics, rows, comparison)


def _losses(
    trials: Mapping[str, Sequence[Trial]], baseline: ArmRow | None, rows: Sequence[ArmRow]
) -> dict[str, LossTable]:
    """Of each arm that has them, against the best baseline and against the first MTA arm, which is the domain's own."""
    by_seed: dict[str, dict[int, dict[Split, RowLosses]]] = {}
    for name, of in trials.items():
        for trial in of:
            found = {split: losses for split in SPLITS if (losses := trial.losses(split))}
            if len(found) == len(SPLITS):
                by_seed.setdefault(name, {})[trial.seed] = found
    ours = next((row.name for row in rows if row.family == "mta" and row.name in by_seed), None)
    others = [name for name in (baseline and baseline.name, ours) if name in by_seed]

    def table(name: str, split: Split, seeds: Sequence[int]) -> Scores:
        return seed_table([by_seed[name][seed][split].tasks for seed in seeds])

    def against(name: str, other: str) -> dict[Split, Interval]:
        seeds = sorted(by_seed[name].keys() & by_seed[other].keys())
        return {s: paired_by_seed(table(name, s, seeds), table(other, s, seeds)) for s in SPLITS if seeds}

    return {
        name: LossTable(
            {split: macro(table(name, split, sorted(by_seed[name]))) for split in SPLITS},
            {str(other): against(name, str(other)) for other in dict.fromkeys(others) if other != name},
        )
        for name in by_seed
    }


def to_markdown(table: Table) -> str:
    """The table, and one sentence on what it shows."""
    tasks = list(table.metrics)
    head = ["arm", "macro", "against the best baseline", *tasks, "seeds", "rate", "trained parameters", "seconds"]
    lines = [f"# Ablation of {table.domain}", "", settings_line(table.settings, table.arms), ""]
    lines += [table_row(head), table_row(["---"] * len(head))]
    for arm in table.arms:
        value = arm.macro
        rate = "" if arm.rate is None else f"{arm.rate:g}" + (" (edge)" if arm.rate_at_edge else "")
        lines.append(
            table_row(
                [
                    arm.title,
                    f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})",
                    signed(arm.difference) if arm.difference else "",
                    *[f"{arm.tasks[task].value:.3f}" for task in tasks if task in arm.tasks],
                    str(len(arm.seeds)),
                    rate,
                    f"{arm.trained_parameters:,}",
                    f"{arm.seconds:.0f}",
                ]
            )
        )
    metrics = ", ".join(f"{task}: {metric}" for task, metric in table.metrics.items())
    seeds = [len(arm.seeds) for arm in table.arms if arm.rate is not None]
    several = max(seeds, default=1) > 1
    luck = "seeds and rows" if several else "rows; how seeds differ is not in them"
    if several and 1 in seeds:
        luck += "; of arms with one seed, over rows alone"
    lines += ["", f"Scores are means over seeds on the same test rows ({metrics}); intervals are 95 %, over {luck}."]
    computed = sorted({precision for arm in table.arms for precision in arm.precision})
    lines += [f"Trials computed in {' and '.join(computed)}."] if computed else []
    lines += [
        f"{arm.title} diverged at seed {', '.join(map(str, arm.diverged))}."
        + ("" if arm in _whole(table.arms) else " Its other seeds are not compared.")
        for arm in table.arms
        if arm.diverged
    ]
    lines += ["Seconds are those of one training's steps.", *_loss_lines(table), "", reading(table)]
    lines += ["", ahead] if (ahead := ahead_instead(table)) else []
    return "\n".join(lines) + "\n"


def _loss_lines(table: Table) -> list[str]:
    """The losses as a table of their own."""
    titles = {arm.name: arm.title for arm in table.arms}
    held = [(arm.title, arm.losses) for arm in table.arms if arm.losses]
    others = list(dict.fromkeys(other for _, losses in held for other in losses.against))
    if not held:
        return []
    head = ["arm", *(f"loss, {s} rows" for s in SPLITS), *(f"against {titles[o]}, {s}" for o in others for s in SPLITS)]
    lines = ["", table_row(head), table_row(["---"] * len(head))]
    for title, losses in held:
        cells = [losses.against.get(other, {}).get(split) for other in others for split in SPLITS]
        means = [f"{losses.mean[split]:.4f}" for split in SPLITS]
        lines.append(table_row([title, *means, *(signed(cell, 4) if cell else "" for cell in cells)]))
    about = (
        "Losses are nats a row (the mean over its target's tokens), means of tasks; less is better. Differences are "
        "paired by row and seed: they tell arms apart where scores cannot, and scores decide."
    )
    return [*lines, "", about]


def ahead_instead(table: Table) -> str:
    """On which tasks the best MTA arm trails what a user would take instead; empty where one of them is not there."""
    ours, instead = best_of(_whole(table.arms), "mta"), best_of(table.arms, "instead")
    if not ours or not instead:
        return ""
    lost = [
        f"{task} ({theirs.value:.3f} for {ours.tasks[task].value:.3f})"
        for task, theirs in instead.tasks.items()
        if theirs.value > ours.tasks[task].value
    ]
    where = f"ahead of {ours.title} on {', '.join(lost)}" if lost else f"ahead of {ours.title} on no task"
    return f"A {instead.title} is {where}."


def reading(table: Table) -> str:
    """What the comparison says, in one sentence."""
    found = table.comparison
    if found is None:
        return "No comparison yet: an MTA arm and a baseline are needed."
    titles = {arm.name: arm.title for arm in table.arms}
    ours, theirs = titles[found.mta], titles[found.baseline]
    span = f"{signed(found)} macro, paired"
    if found.low > 0:
        return f"{ours} is ahead of the best baseline, {theirs}: {span}."
    if found.high < 0:
        return f"{ours} is behind the best baseline, {theirs}: {span}."
    return f"{ours} and the best baseline, {theirs}, cannot be told apart: {span}."


def settings_line(settings: Settings, arms: Sequence[ArmRow] = ()) -> str:
    """What all arms share, in words, and which of `arms` do not."""
    rows = {split: getattr(settings, f"{split}_rows").values() for split in ("train", "validation", "test")}
    train = f"{min(rows['train']):,} to {max(rows['train']):,}"
    patience = settings.patience
    stop = f", stopped after {patience} validation scores without a better one" if patience else ""
    return (
        f"{len(rows['train'])} tasks of {train} training rows, {sum(rows['validation']):,} validation and "
        f"{sum(rows['test']):,} test rows in all. Every arm takes {settings.steps:,} steps of "
        f"{settings.rows_per_step} rows{stop}. "
        f"{_others(settings, arms)}{_choice_of_rate(settings)}"
    )


def _others(settings: Settings, arms: Sequence[ArmRow]) -> str:
    """The arms that were trained on clearly more or fewer rows than all are said to be."""
    wanted = settings.steps * settings.rows_per_step
    if settings.patience:  # each stops where it stops
        return ""
    other = [
        arm for arm in arms if arm.rate is not None and arm.rows is not None and abs(arm.rows - wanted) > 0.01 * wanted
    ]
    named = ", ".join(f"{arm.title} ({arm.rows:,} rows in all for {wanted:,})" for arm in other)
    return f"But {named}. " if named else ""


def _choice_of_rate(settings: Settings) -> str:
    rates, widened = settings.rates, settings.widened
    grid = ", ".join(f"{rate:g}" for rate in rates)
    if len(rates) == 1 and not widened:
        return f"Its rate is {grid}, the same for every arm and tuned for none on these rows."
    source = f"a grid that begins with {grid} and is widened until no arm is best at its edge" if widened else grid
    return f"Its rate is the best on validation rows at the first seed, of {source}."


def signed(value: Interval, digits: int = 3) -> str:
    """A difference with its interval."""
    return f"{value.value:+.{digits}f} ({value.low:+.{digits}f} to {value.high:+.{digits}f})"


def _whole(tables: Sequence[ArmRow]) -> list[ArmRow]:
    """Arms with all the seeds that any has: of fewer, the interval would leave out a kind of luck that others show."""
    most = max((len(arm.seeds) for arm in tables), default=0)
    return [arm for arm in tables if len(arm.seeds) == most or arm.rate is None]


def best_of(tables: Sequence[ArmRow], family: Family) -> ArmRow | None:
    """The arm of a family with the best validation score."""
    own = [arm for arm in tables if arm.family == family]
    return max(own, key=lambda arm: arm.validation) if own else None


def table_row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
