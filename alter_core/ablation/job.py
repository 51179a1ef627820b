"""The ablation: every arm on the same rows and steps, each at its own best rate, over several seeds.

`python -m alter_core.ablation.job JOB.json` does one; started again it goes on where it was stopped, and the
table so far is on disk after every arm.
"""

import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from alter_core import job as jobs
from alter_core.ablation.arm import Arm
from alter_core.ablation.arms import Parts, make_arms
from alter_core.ablation.duration import Guess, Sayer, Step, all_steps, expected_seconds, tuning_steps, what_is_shared
from alter_core.ablation.grid import best_rate, is_at_edge, rates_to_try
from alter_core.ablation.page import to_markdown
from alter_core.ablation.plot import draw
from alter_core.ablation.pool import SideBySide
from alter_core.ablation.screening import Screening, screen
from alter_core.ablation.table import Settings, Table, Tuned, summarise
from alter_core.ablation.trials import Bench, Split, Trial
from alter_core.data.dataset import TaskDataset
from alter_core.errors import SpecError, TrainingError
from alter_core.numerics import Precision, choose_precision
from alter_core.spec import DomainSpec, StageSpec
from alter_core.whole import Result, write_text, written_whole


@dataclass(frozen=True)
class Begun(Result):
    """What precision.json holds."""

    precision: Precision


COMMAND = "alter_core.ablation.job"
"""This module, as `python -m` is given it."""


class TrialChoice(BaseModel):
    """One trial of an ablation, and how far to take it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    rate: float | None
    seed: int
    split: Split


class AblationJob(jobs.Job):
    """Everything that an ablation needs, as JSON."""

    spec: DomainSpec
    """The domain, with the dataset's labels filled in."""
    dataset: Path
    """Folder of a TaskDataset."""
    backbone: Path
    """Folder of the converted backbone."""
    output: Path
    """Folder for trials, ablation.json, ablation.md and ablation.png."""
    trunk_cache: Path
    """Folder of trunk caches."""
    metrics: Path
    """JSON lines, appended: phase `shared` (text: which arms begin with the same stage one), phase `ablate` (done,
    total, seconds_left, text), and what each training tells, with its `arm`."""
    seeds: int = Field(default=3, ge=1)
    """Seeds of every arm; the first one also chooses the arm's rate."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-3, 2e-3, 4e-3), min_length=1)
    """The grid of stage one's rate that every arm begins with; it is widened by factors of two until no arm is best
    at its edge."""
    max_rates: int = Field(default=9, ge=1)
    """An arm still best at the edge of so many rates stays there, and the table says so. No more than `rates` has:
    nothing is widened."""
    arms: tuple[str, ...] | None = None
    """Names of the arms to run; unset: all."""
    variants: dict[str, Parts] = Field(default_factory=dict)
    """Further MTA arms: name -> parts of the spec that differ (mta, stage_one, stage_two)."""
    steps_factor: float = Field(default=1.0, gt=0)
    """Multiplies the length of every stage of every arm."""
    patience: int | None = Field(default=None, ge=1)
    """Validation scores without a better one after which an arm stops: with a large steps_factor, arms are compared at
    convergence rather than at equal steps."""
    at_once: int = Field(default=1, ge=1)
    """Trials that are worked on side by side, each in a process with its share of the processors."""
    screen: bool = False
    """Compare by loss alone: nothing is answered, arms that do not train are left out, and the grid is not widened."""
    only: TrialChoice | None = None
    """Do this trial and make no table: what a process beside others is given."""
    code: str = ""
    """Digest of the code; results of other code are not reused."""


def run(job: AblationJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> Table | Screening | None:
    """Do `job`; returns what ablation.json holds, or screening.json, and nothing for one trial.

    Raises AlterError subclasses for wrong input, and alter_core.errors.Stopped when asked to stop.
    """
    dataset = TaskDataset.open(job.dataset)
    job = _in_one_precision(job)
    spec = _lengthened(job)
    counts = _row_counts(spec, dataset)
    if not any(counts["validation"].values()):
        raise SpecError(
            f"{spec.name}: an ablation chooses rates by validation rows, and there are none: raise split > validation"
        )
    variants = {name: _lengthened_parts(parts, job) for name, parts in job.variants.items()}
    names = (job.only.arm,) if job.only else job.arms
    arms = make_arms(spec, job.backbone, sum(counts["train"].values()), variants, names)
    widest = len(job.rates) if job.screen else job.max_rates
    sayer = Sayer(log, job.at_once, fixed=widest <= len(job.rates))
    bench = Bench(
        spec, dataset, job.backbone, job.output, job.trunk_cache, job.code, sayer.inner, stop_asked, job.screen
    )
    if job.only:
        _do(job.only, bench, arms, log)
        return None
    settings = _settings(job, spec, counts)
    guesses = expected_seconds(bench, arms, counts)
    seeds = range(spec.seed, spec.seed + job.seeds)
    steps: dict[Step, float] = {}
    begun: set[Path] = set()
    if job.screen:
        arms = tuple(arm for arm in arms if arm.spec)
    for arm in arms:
        steps |= all_steps(bench, arm, job.rates, widest, seeds, guesses[arm.name], begun)
    sayer.plan(len(arms), steps)
    for line in what_is_shared(bench, arms, job.rates[0], guesses, sum(counts["train"].values())):
        log(phase="shared", text=line)
    beside = SideBySide(job.at_once, stop_asked)

    tuned: dict[str, Tuned] = {}
    finished: dict[str, list[Trial]] = {arm.name: [] for arm in arms}
    one_at_a_time = threading.Lock()

    def reach(trial: Trial, split: Split) -> None:
        """Have the result of `trial`, by a process of its own where several are wanted."""
        if job.at_once > 1 and not trial.has(split):
            choice = TrialChoice(arm=trial.arm.name, rate=trial.rate, seed=trial.seed, split=split)
            part = job.model_copy(update={"only": choice})
            beside.run(COMMAND, part, trial.folder, f"{trial.arm.title}, seed {trial.seed}")
        trial.reach(split)

    if job.screen:
        order = job.arms or tuple(arm.name for arm in arms)
        ordered = sorted(arms, key=lambda arm: order.index(arm.name))
        return screen(bench, ordered, job.rates, seeds, sayer, reach, settings)

    def settle(arm: Arm, trial: Trial) -> None:
        with sayer.working(arm, trial, "test"):
            reach(trial, "test")
            trial.drop_weights()
            with one_at_a_time:
                finished[arm.name] = sorted([*finished[arm.name], trial], key=lambda trial: trial.seed)
                write_table(job.output, summarise(spec, arms, finished, tuned, settings))

    def tune(arm: Arm) -> None:
        trial, tuned[arm.name] = _tune(bench, arm, job, sayer, guesses[arm.name], reach)
        settle(arm, trial)

    beside.each(tune, arms)
    others = [(arm, seed) for seed in seeds[1:] for arm in arms if arm.spec]
    beside.each(lambda one: settle(one[0], Trial(bench, one[0], tuned[one[0].name].rate, one[1])), others)
    return summarise(spec, arms, finished, tuned, settings)


def _do(only: TrialChoice, bench: Bench, arms: Sequence[Arm], log: jobs.Log) -> None:
    """One of several trials side by side: it also ends when the process that waits for it was killed."""
    parent, asked = os.getppid(), bench.stop_asked
    (arm,) = (arm for arm in arms if arm.name == only.arm)
    alone = replace(
        bench,
        log=lambda **fields: log(**{**fields, "arm": arm.name}),
        stop_asked=lambda: asked() or os.getppid() != parent,
    )
    Trial(alone, arm, only.rate, only.seed).reach(only.split)


def _tune(
    bench: Bench,
    arm: Arm,
    job: AblationJob,
    sayer: Sayer,
    guess: Guess,
    reach: Callable[[Trial, Split], None],
) -> tuple[Trial, Tuned]:
    """The arm's best trial on validation rows, and the grid that it was found on."""
    if arm.spec is None:
        return Trial(bench, arm, None, bench.spec.seed), Tuned(None, {}, False)
    tried: dict[float, float] = {}
    trials: dict[float, Trial] = {}
    while rates := rates_to_try(tried, job.rates, job.max_rates):
        more = {rate: Trial(bench, arm, rate, bench.spec.seed) for rate in rates}
        if tried:
            sayer.widened(tuning_steps(list(more.values()), guess))
        trials |= more
        for rate, trial in more.items():
            with sayer.working(arm, trial, "validation"):
                reach(trial, "validation")
                tried[rate] = trial.score()
            for loser in set(tried) - {best_rate(tried)}:
                trials[loser].drop_weights()
    best = best_rate(tried)
    if tried[best] == -math.inf:
        why = [f"rate {rate:g}: {trial.validation().diverged}" for rate, trial in sorted(trials.items())]
        raise TrainingError(f"{arm.title} diverges at every rate that was tried: give lower ones with --rate", why)
    grid = {rate: None if score == -math.inf else score for rate, score in sorted(tried.items())}
    return trials[best], Tuned(best, grid, is_at_edge(tried))


def _in_one_precision(job: AblationJob) -> AblationJob:
    """`job` with the precision that all its trials compute in: what another one changes is as much as another seed
    does. It is measured once; on whichever machine the ablation goes on later, it goes on as it began."""
    if job.spec.precision != "auto":
        return job
    record = job.output / "precision.json"
    begun = Begun.read(record)
    if begun is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        begun = Begun(choose_precision("auto", device)[0])
        begun.write(record)
    return job.model_copy(update={"spec": job.spec.model_copy(update=asdict(begun))})


def _row_counts(spec: DomainSpec, dataset: TaskDataset) -> dict[str, dict[str, int]]:
    """Rows that are trained on or scored: split -> task -> rows."""
    limits = {"train": None, "validation": spec.evaluation.max_validation_rows, "test": spec.evaluation.max_rows}
    return {
        split: {name: min(count, limit or sys.maxsize) for name, count in dataset.counts(split).items()}
        for split, limit in limits.items()
    }


def _settings(job: AblationJob, spec: DomainSpec, counts: Mapping[str, Mapping[str, int]]) -> Settings:
    return Settings(
        train_rows=counts["train"],
        validation_rows=counts["validation"],
        test_rows=counts["test"],
        steps=spec.count_steps(sum(counts["train"].values())),
        rows_per_step=spec.stage_one.rows_per_step,
        seeds=job.seeds,
        rates=job.rates,
        widened=job.max_rates > len(job.rates),
        patience=job.patience,
    )


def write_table(folder: Path, table: Table) -> None:
    """ablation.json, ablation.md and ablation.png in `folder`."""
    table.write(folder / "ablation.json")
    write_text(folder / "ablation.md", to_markdown(table))
    with written_whole(folder / "ablation.png") as path:
        draw(table).savefig(path, format="png", dpi=150)


def _lengthened(job: AblationJob) -> DomainSpec:
    def longer(stage: StageSpec) -> StageSpec:
        lengths = _longer(stage.model_dump(), job.steps_factor)
        return stage.model_copy(update={**lengths, "patience": job.patience or stage.patience})

    return job.spec.model_copy(update={name: longer(stage) for name, stage in job.spec.stages.items()})


def _lengthened_parts(parts: Parts, job: AblationJob) -> Parts:
    """A variant whose stages' own lengths, where it gives any, are multiplied as those of the domain's spec are, and
    which stops as early."""
    stages = {name: parts[name] for name in ("stage_one", "stage_two") if isinstance(parts.get(name), Mapping)}
    patience = {"patience": job.patience} if job.patience else {}
    return {**parts, **{n: {**stage, **patience, **_longer(stage, job.steps_factor)} for n, stage in stages.items()}}


def _longer(stage: Parts, factor: float) -> dict[str, float]:
    """The length that a stage gives, multiplied. What is no length stays as it is, for the spec's own check."""
    epochs, steps = stage.get("epochs"), stage.get("steps")
    longer: dict[str, float] = {}
    if isinstance(epochs, int | float):
        longer["epochs"] = epochs * factor
    if isinstance(steps, int) and steps > 0:
        longer["steps"] = max(1, round(steps * factor))
    return longer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    return jobs.main(AblationJob, run, "ablation", arguments)


if __name__ == "__main__":
    sys.exit(main())
