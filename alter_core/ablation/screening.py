"""Screening: arms held against each other by loss alone, which costs a small part of what their answers do.

Losses tell arms apart whose scores cannot; what passes is decided by scores, in an ablation without `screen`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alter_core.ablation.arm import Arm
from alter_core.ablation.duration import Sayer
from alter_core.ablation.grid import best_rate
from alter_core.ablation.intervals import Scores, macro, paired_by_seed, seed_table
from alter_core.ablation.losses import RowLosses
from alter_core.ablation.page import settings_line, signed, table_lines
from alter_core.ablation.table import Settings
from alter_core.ablation.trials import SPLITS, Bench, Split, Trial
from alter_core.errors import SpecError
from alter_core.evaluation.metrics import Interval
from alter_core.whole import Result, write_text

Reach = Callable[[Trial, Split], None]
"""Has a trial's losses on a split taken."""


@dataclass(frozen=True)
class ScreenedArm:
    """An arm's losses in nats a row, means of tasks; differences are paired by seed and row, below zero is better."""

    name: str
    title: str
    rate: float
    grid: Mapping[str, float]
    """Loss on validation rows at the first seed, by rate."""
    seeds: tuple[int, ...]
    losses: Mapping[Split, float]
    against_first: Interval | None
    """On test rows, to the first arm of the table, which has none."""
    against_stage_one: Interval | None
    """On test rows, to the stage one that it began with; None where that is all it has."""
    tasks: Mapping[str, Interval]
    """By task, to its stage one, or else to the first arm."""


@dataclass(frozen=True)
class Screening(Result):
    """What screening.json holds."""

    domain: str
    settings: Settings
    arms: tuple[ScreenedArm, ...]


def screen(
    bench: Bench,
    arms: Sequence[Arm],
    rates: Sequence[float],
    seeds: Sequence[int],
    sayer: Sayer,
    reach: Reach,
    settings: Settings,
) -> Screening:
    """Train the arms, and write screening.json and screening.md after each.

    arms: that train. rates: of stage one, of which each arm takes the one with the least loss on validation rows at the
    first seed.
    Raises SpecError where there is none, Diverged where a loss is no number.
    """
    found: dict[str, tuple[list[Trial], dict[float, float]]] = {}
    result = Screening(bench.spec.name, settings, ())
    for arm in arms:
        scores = {}
        for rate in rates:
            trial = Trial(bench, arm, rate, seeds[0])
            with sayer.working(arm, trial, "validation"):
                reach(trial, "validation")
                scores[rate] = trial.score()
        best = best_rate(scores)
        for rate in scores.keys() - {best}:
            Trial(bench, arm, rate, seeds[0]).drop_weights()
        trials = [Trial(bench, arm, best, seed) for seed in seeds]
        for trial in trials:
            with sayer.working(arm, trial, "test"):
                for split in SPLITS:
                    reach(trial, split)
                trial.drop_weights()
        found[arm.name] = trials, {rate: -score for rate, score in scores.items()}
        result = Screening(bench.spec.name, settings, _arms(found))
        result.write(bench.folder / "screening.json")
        write_text(bench.folder / "screening.md", to_markdown(result))
    if not found:
        raise SpecError("a screening compares arms that train, and none of these does: name others with --arm")
    return result


def _arms(found: Mapping[str, tuple[Sequence[Trial], Mapping[float, float]]]) -> tuple[ScreenedArm, ...]:
    first = _table([trial.losses("test") for trial in next(iter(found.values()))[0]])
    made: list[ScreenedArm] = []
    for name, (trials, grid) in found.items():
        own = {split: _table([trial.losses(split) for trial in trials]) for split in SPLITS}
        begun = [trial.stage_one_losses("test") for trial in trials]
        before = _table(begun) if all(begun) else None
        other = first if before is None else before
        made.append(
            ScreenedArm(
                name=name,
                title=trials[0].arm.title,
                rate=trials[0].rate or 0.0,
                grid={f"{rate:g}": loss for rate, loss in grid.items()},
                seeds=tuple(trial.seed for trial in trials),
                losses={split: macro(table) for split, table in own.items()},
                against_first=paired_by_seed(own["test"], first) if made else None,
                against_stage_one=paired_by_seed(own["test"], before) if before else None,
                tasks={task: paired_by_seed({task: own["test"][task]}, {task: other[task]}) for task in own["test"]}
                if made or before
                else {},
            )
        )
    return tuple(made)


def _table(losses: Sequence[RowLosses | None]) -> Scores:
    return seed_table([of.tasks for of in losses if of])


def to_markdown(screening: Screening) -> str:
    """The losses, and the differences by task, as two tables."""
    first, tasks = screening.arms[0], list(screening.settings.test_rows)
    head = ["arm", *(f"loss, {split} rows" for split in SPLITS), f"against {first.title}", "against its stage one"]
    head += ["seeds", "rate"]
    rows, by_task = [], []
    for arm in screening.arms:
        differences = [signed(cell, 4) if cell else "" for cell in (arm.against_first, arm.against_stage_one)]
        means = [f"{arm.losses[split]:.4f}" for split in SPLITS]
        rest = [str(len(arm.seeds)), f"{arm.rate:g}"]
        rows.append([arm.title, *means, *differences, *rest])
        if arm.tasks:
            title = f"{arm.title}, against {'its stage one' if arm.against_stage_one else first.title}"
            by_task.append([title, *(signed(arm.tasks[task], 4) for task in tasks)])
    lines = [
        *(f"# Screening of {screening.domain}", "", settings_line(screening.settings), ""),
        *(*table_lines(head, rows), "", *table_lines(["arm", *tasks], by_task), ""),
        "Losses are nats a row (the mean over its target's tokens), means of tasks; less is better. Differences are on "
        "test rows, paired by row and seed, with intervals of 95 %. Nothing was answered: scores decide.",
    ]
    return "\n".join(lines) + "\n"
