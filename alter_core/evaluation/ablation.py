"""The ablation: every arm on the same rows and steps, each at its own best rate, over several seeds.

`python -m alter_core.evaluation.ablation JOB.json` does one; started again it goes on where it was stopped, and the
table so far is on disk after every arm.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alter_core.backbone import load_backbone
from alter_core.errors import AlterError, SpecError
from alter_core.evaluation.ablation_table import Tuned, summarise, write_table
from alter_core.evaluation.arms import Arm, make_arms
from alter_core.evaluation.job import append_row
from alter_core.evaluation.trials import Bench, Trial
from alter_core.prompts import encode_prompts
from alter_core.spec import DomainSpec, StageSpec

GRID_STEP = 2.0
EXIT_STOPPED = 143


class AblationJob(BaseModel):
    """Everything that an ablation needs, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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
    """JSON lines, appended: phase `ablate` (done, total, seconds_left, text), and what each training tells, with its
    `arm`."""
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
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further MTA arms: name -> parts of the spec that differ (mta, stage_one, stage_two)."""
    steps_factor: float = Field(default=1.0, gt=0)
    """Multiplies the length of every stage of every arm."""
    patience: int | None = Field(default=None, ge=1)
    """Validation scores without a better one after which an arm stops: with a large steps_factor, arms are compared at
    convergence rather than at equal steps."""
    code: str = ""
    """Digest of the code; results of other code are not reused."""


def run(job: AblationJob, log: Callable[..., None], stop_asked: Callable[[], bool]) -> dict[str, Any]:
    """Do `job`; returns what ablation.json holds.

    Raises AlterError subclasses for wrong input, and alter_core.errors.Stopped when asked to stop.
    """
    from alter_core.data.dataset import TaskDataset

    dataset = TaskDataset.open(job.dataset)
    spec = _lengthened(job)
    counts = _row_counts(spec, dataset)
    variants = {name: _lengthened_parts(parts, job.steps_factor) for name, parts in job.variants.items()}
    arms = _chosen(make_arms(spec, job.backbone, sum(counts["train"].values()), variants), job.arms)
    settings = _settings(job, spec, counts)
    sayer = _Sayer(log)
    bench = Bench(spec, dataset, job.backbone, job.output, job.trunk_cache, job.code, sayer.inner, stop_asked)
    sayer.plan(arms, job, expected_seconds(bench, arms, counts))

    tuned: dict[str, Tuned] = {}
    finished: dict[str, list[Trial]] = {arm.name: [] for arm in arms}

    def settle(arm: Arm, trial: Trial) -> None:
        sayer.begin(arm, trial)
        trial.validation()
        trial.test()
        trial.drop_weights()
        finished[arm.name].append(trial)
        write_table(job.output, summarise(spec, arms, finished, tuned, settings))
        sayer.done(arm)

    for arm in arms:
        trial, tuned[arm.name] = _tune(bench, arm, job, sayer)
        settle(arm, trial)
    for seed in range(spec.seed + 1, spec.seed + job.seeds):
        for arm in arms:
            if arm.spec:
                settle(arm, Trial(bench, arm, tuned[arm.name].rate, seed))
    return summarise(spec, arms, finished, tuned, settings)


def _tune(bench: Bench, arm: Arm, job: AblationJob, sayer: "_Sayer") -> tuple[Trial, Tuned]:
    """The arm's best trial on validation rows, and the grid that it was found on."""
    if arm.spec is None:
        return Trial(bench, arm, None, bench.spec.seed), Tuned(None, {}, False)
    grid = sorted(job.rates)
    tried: dict[float, float] = {}
    trials: dict[float, Trial] = {}
    while True:
        for rate in grid:
            if rate not in tried:
                trials[rate] = Trial(bench, arm, rate, bench.spec.seed)
                sayer.begin(arm, trials[rate])
                tried[rate] = float(trials[rate].validation()["macro"]["value"])
                sayer.done(arm)
                winner = _winner(tried)
                for loser in set(trials) - {winner}:
                    trials[loser].drop_weights()
        edges = {grid[0]: grid[0] / GRID_STEP, grid[-1]: grid[-1] * GRID_STEP}
        winner = _winner(tried)
        if winner not in edges or len(grid) >= job.max_rates:
            at_edge = winner in edges and len(grid) > 1  # one rate alone was not tuned, which the table says
            return trials[winner], Tuned(winner, dict(sorted(tried.items())), at_edge)
        # A grid of one rate has the same edge on both sides: look both ways.
        wider = sorted({*grid, edges[winner], *([winner / GRID_STEP] if len(grid) == 1 else [])})
        sayer.widened(len(wider) - len(grid))
        grid = wider


def _winner(tried: Mapping[float, float]) -> float:
    """The rate of the best score; of equally good ones the lower, which is the calmer."""
    return min(tried, key=lambda rate: (-tried[rate], rate))


def expected_seconds(bench: Bench, arms: Sequence[Arm], counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """A first guess of each arm's seconds per trial, from one timed forward of the backbone over a few rows.

    A step costs each row's tokens through the whole backbone once where there is no trunk cache, and the part above
    the trunk three times (forward and backward); scoring costs one forward. The guess gives way to real times as
    trials end.
    """
    from alter_core.evaluation.arms import mta_blocks
    from alter_core.mta.architectures import find_architecture, find_blocks
    from alter_core.training.precision import choose_precision
    from alter_core.training.stages import count_steps

    spec = bench.spec
    precision, _ = choose_precision(spec.precision, torch.device("cpu"))
    # As it will compute: in bf16, a processor without the instructions for it takes forty times as long.
    model, tokenizer = load_backbone(bench.backbone, torch.bfloat16 if precision == "bf16" else torch.float32)
    sample = [row for name in spec.task_names for row in bench.dataset.rows("train", name).select(range(4))]
    prompts = [encode_prompts(tokenizer, spec.task(row["task"]), [row["input"]])[0][0] for row in sample]
    width = max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[tokenizer.eos_token_id] * (width - len(prompt))] for prompt in prompts])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :8]} if model.config.is_encoder_decoder else {})
    with torch.inference_mode():
        model(**{name: part[:1] for name, part in inputs.items()})  # the first one also prepares kernels
        begin = time.monotonic()
        model(**inputs)
    per_token = (time.monotonic() - begin) / ids.numel()
    tokens = sum(map(len, prompts)) / len(prompts)
    blocks = find_blocks(model, find_architecture(model))
    train_rows = sum(counts["train"].values())
    scored = sum(counts["validation"].values()) + sum(counts["test"].values())
    expected = {}
    for arm in arms:
        work = 2.0 * scored * tokens  # reading the prompt, and about as much again for writing
        if arm.spec:
            chosen = mta_blocks(blocks, arm.spec.mta)
            top = max(1 - min(numbers, default=0) / len(blocks[side]) for side, numbers in chosen.items())
            for stage in arm.spec.stages.values():
                work += count_steps(stage, train_rows) * stage.rows_per_step * tokens * (3 * top)
        expected[arm.name] = work * per_token
    return expected


def _row_counts(spec: DomainSpec, dataset: Any) -> dict[str, dict[str, int]]:
    """Rows that are trained on or scored: split -> task -> rows."""
    limits = {"train": None, "validation": spec.evaluation.max_validation_rows, "test": spec.evaluation.max_rows}
    return {
        split: {name: min(len(dataset.rows(split, name)), limit or sys.maxsize) for name in spec.task_names}
        for split, limit in limits.items()
    }


def _settings(job: AblationJob, spec: DomainSpec, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What all arms share, as the table tells it."""
    from alter_core.training.stages import count_all_steps

    return {
        **{f"{split}_rows": dict(rows) for split, rows in counts.items()},
        "steps": count_all_steps(spec, sum(counts["train"].values())),
        "rows_per_step": spec.stage_one.rows_per_step,
        "seeds": job.seeds,
        "rates": list(job.rates),
        "widened": job.max_rates > len(job.rates),
        "patience": job.patience,
    }


def _lengthened(job: AblationJob) -> DomainSpec:
    def longer(stage: StageSpec) -> StageSpec:
        lengths = _longer(stage.model_dump(), job.steps_factor)
        return stage.model_copy(update={**lengths, "patience": job.patience or stage.patience})

    return job.spec.model_copy(update={name: longer(stage) for name, stage in job.spec.stages.items()})


def _lengthened_parts(parts: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """A variant whose stages' own lengths, where it gives any, are multiplied as those of the domain's spec are."""
    stages = {name: parts[name] for name in ("stage_one", "stage_two") if isinstance(parts.get(name), Mapping)}
    return {**parts, **{name: {**stage, **_longer(stage, factor)} for name, stage in stages.items()}}


def _longer(stage: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The length that a stage gives, multiplied. What is no number stays as it is, for the spec's own check."""
    epochs, steps = stage.get("epochs"), stage.get("steps")
    longer: dict[str, Any] = {}
    if isinstance(epochs, int | float):
        longer["epochs"] = epochs * factor
    if isinstance(steps, int):
        longer["steps"] = max(1, round(steps * factor))
    return longer


def _chosen(arms: Sequence[Arm], names: Sequence[str] | None) -> tuple[Arm, ...]:
    known = [arm.name for arm in arms]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SpecError(f"no such arm: {', '.join(unknown)}; arms are {', '.join(known)}")
    return tuple(arm for arm in arms if names is None or arm.name in names)


class _Sayer:
    """Tells how far the ablation is; times still to come are the guesses, scaled by how true they have been."""

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log
        self._arm = ""
        self._text = ""
        self._done = self._total = 0
        self._guess: dict[str, float] = {}
        self._left: list[str] = []
        self._spent = self._guessed = 0.0
        self._begin = time.monotonic()

    def plan(self, arms: Sequence[Arm], job: AblationJob, guess: Mapping[str, float]) -> None:
        self._guess = dict(guess)
        for arm in arms:
            # Tuning; scoring the best on test rows; the other seeds.
            count = 1 + (len(job.rates) + job.seeds - 1 if arm.spec else 0)
            self._left += [arm.name] * count
        self._total = len(self._left)
        hours = sum(self._guess[name] for name in self._left) / 3600
        self._say(f"{len(arms)} arms, {self._total} steps: about {hours:.1f} hours, more where a grid is widened")

    def widened(self, count: int) -> None:
        self._left += [self._arm] * count
        self._total += count

    def begin(self, arm: Arm, trial: Trial) -> None:
        self._arm = arm.name
        rate = "" if trial.rate is None else f", rate {trial.rate:g}, seed {trial.seed}"
        self._begin = time.monotonic()
        self._say(f"{arm.title}{rate}")

    def done(self, arm: Arm) -> None:
        self._done += 1
        self._left.remove(arm.name)
        seconds = time.monotonic() - self._begin
        if seconds > 2.0:  # read from disk otherwise
            self._spent += seconds
            self._guessed += self._guess[arm.name]
        self._say(self._text)

    def inner(self, **fields: Any) -> None:
        """A row of the training or scoring that runs now."""
        self._log(**{**fields, "arm": self._arm})

    def _say(self, text: str) -> None:
        self._text = text
        truth = self._spent / self._guessed if self._guessed else 1.0
        left = truth * sum(self._guess[name] for name in self._left)
        self._log(phase="ablate", done=self._done, total=self._total, seconds_left=left, text=text, arm=self._arm)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, 143 after SIGTERM, or that of the AlterError that stopped the job."""
    from alter_core.errors import Stopped

    if len(arguments) != 1:
        sys.stderr.write("usage: python -m alter_core.evaluation.ablation JOB.json\n")
        return 2
    try:
        job = AblationJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    except ValidationError as error:
        sys.stderr.write(f"{arguments[0]}: not an ablation job: {error}\n")
        return 2
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    try:
        run(job, lambda **fields: append_row(job.metrics, fields), lambda: bool(asked))
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return EXIT_STOPPED
    except AlterError as error:
        sys.stderr.write(f"{error}\n")
        told = {"headline": error.headline, "problems": list(error.problems), "exit_code": error.exit_code}
        append_row(job.metrics, {"phase": "error", **told})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
