"""What an ablation found: one table, and the paired difference that decides it.

The best MTA arm and the best baseline are chosen by validation rows, so that choosing cannot flatter the test score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alter_core.ablation.arm import Arm, Family
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
    whole = complete(tables)
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


def complete(tables: Sequence[ArmRow]) -> list[ArmRow]:
    """Arms with all the seeds that any has: of fewer, the interval would leave out a kind of luck that others show."""
    most = max((len(arm.seeds) for arm in tables), default=0)
    return [arm for arm in tables if len(arm.seeds) == most or arm.rate is None]


def best_of(tables: Sequence[ArmRow], family: Family) -> ArmRow | None:
    """The arm of a family with the best validation score."""
    own = [arm for arm in tables if arm.family == family]
    return max(own, key=lambda arm: arm.validation) if own else None
