"""How long an ablation takes: a guess before it begins, and what is left while it goes on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alter_core.ablation.arm import Arm
from alter_core.ablation.grid import best_rate, rates_to_try
from alter_core.ablation.trials import Bench, Split, Trial
from alter_core.backbone import load_backbone
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.mta.injection import mta_blocks
from alter_core.numerics import dtype_of
from alter_core.prompts import encode_prompts
from alter_core.training.result import RESULT_FILE, StageResult
from alter_core.training.stages import scores_due


@dataclass(frozen=True)
class Guess:
    """Seconds that a trial of an arm takes."""

    validation: float
    """Of training, and scoring validation rows."""
    test: float
    """Of scoring test rows."""
    first: float
    """Of training stage one, which is in `validation`."""


Step = tuple[str, Split, float | None]
"""An arm, a split that its trial is scored on, and which trial: its rate for `validation`, its seed for `test`."""


def expected_seconds(bench: Bench, arms: Sequence[Arm], counts: Mapping[str, Mapping[str, int]]) -> dict[str, Guess]:
    """A first guess of what each arm's trial takes, from one timed forward of the backbone over a few rows.

    A step costs each row's tokens through the part above the trunk three times (forward and backward); scoring costs
    one forward and about as much again for writing, or, by loss alone, what is above the trunk once; a stage that may
    stop early scores the validation rows many times, and one that opens gates twice. What the trunk caches cost, which
    all trials share, is left out. The guess gives way to real times as trials end.
    """
    spec = bench.spec
    # As it will compute: in bf16, a processor without the instructions for it takes many times as long.
    model, tokenizer = load_backbone(bench.backbone, dtype_of(spec.precision))
    tables = [bench.dataset.rows("train", name) for name in spec.task_names]
    sample = [row for table in tables for row in table.select(range(min(4, len(table))))]
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
    rows = {split: sum(of.values()) for split, of in counts.items()}
    expected: dict[str, Guess] = {}
    for arm in arms:
        top = 1.0
        if arm.spec:
            chosen = mta_blocks(blocks, arm.spec.mta)
            top = max(1 - min(numbers, default=0) / len(blocks[side]) for side, numbers in chosen.items())
        scoring = top if bench.screen else 2.0
        validation, test = (scoring * rows[split] * tokens for split in ("validation", "test"))
        work, first = validation, 0.0
        if arm.spec:
            gate = "soft"
            for stage in arm.spec.stages.values():
                steps = stage.count_steps(rows["train"])
                scores = 0 if stage.best_by_task else len(scores_due(stage, steps))
                scores += 2 if (gate, stage.gate) == ("hard", "soft") else 0
                work += steps * stage.rows_per_step * tokens * (3 * top) + scores * validation
                gate = stage.gate
                first = first or work - validation
        expected[arm.name] = Guess(work * per_token, test * per_token, first * per_token)
    return expected


def tuning_steps(trials: Sequence[Trial], guess: Guess, begun: set[Path] | None = None) -> dict[Step, float]:
    """A grid's steps with the seconds that each will take; none where its result is there. guess: of one trial.

    begun: stage ones that trials before these train; those of these trials are added.
    """
    begun = set() if begun is None else begun
    return {
        (trial.arm.name, "validation", trial.rate): 0.0 if trial.has("validation") else _training(trial, guess, begun)
        for trial in trials
    }


def _training(trial: Trial, guess: Guess, begun: set[Path]) -> float:
    """Seconds until a trial has its validation score; without stage one, where that is there or begun before."""
    shared = trial.shared
    known = shared is not None and (shared in begun or StageResult.read(shared / RESULT_FILE) is not None)
    begun |= {shared} if shared else set()
    return guess.validation - (guess.first if known else 0.0)


def what_is_shared(
    bench: Bench, arms: Sequence[Arm], rate: float, guesses: Mapping[str, Guess], rows: int
) -> list[str]:
    """Which arms begin with the same stage one, and what one more that does would cost; a line each.

    rate: any that arms are tried at. rows: training rows of all tasks.
    """
    groups: dict[Path, list[Trial]] = {}
    for trial in (Trial(bench, arm, rate, bench.spec.seed) for arm in arms if arm.spec):
        if trial.shared:
            groups.setdefault(trial.shared, []).append(trial)
    lines = []
    for trials in groups.values():
        one, *others = trials
        titles = ", ".join(trial.arm.title for trial in trials)
        stage, guess = one.spec.stage_one, guesses[one.arm.name]
        steps = [stage.count_steps(rows) for stage in one.spec.stages.values()]
        after = guess.validation - guess.first
        lines.append(
            f"{titles}: {'one stage one for all' if others else 'a stage one of its own'} at each rate and seed, "
            f"{_cost(steps[0], stage.rows_per_step, guess.first)}; one more variant that begins with it costs a trial "
            f"{_cost(sum(steps[1:]), stage.rows_per_step, after)} with its validation score, and "
            f"{(after + guess.test) / 60:.1f} minutes with its test score too"
        )
    return lines


def _cost(steps: int, rows: int, seconds: float) -> str:
    return f"{steps:,} steps of {rows} rows, about {seconds / 60:.1f} minutes"


def all_steps(
    bench: Bench,
    arm: Arm,
    rates: Sequence[float],
    max_rates: int,
    seeds: Sequence[int],
    guess: Guess,
    begun: set[Path],
) -> dict[Step, float]:
    """Every step of an arm, as `tuning_steps` gives them; how far its grid will be widened is known once it was.

    rates, max_rates: as AblationJob has them. seeds: the first one is that which the rate is chosen by; for others,
    arms that share stage one are taken to choose the same. begun: as `tuning_steps` has it.
    """
    steps: dict[Step, float] = {}
    tried: dict[float, float] = {}
    while arm.spec and (more := rates_to_try(tried, rates, max_rates)):
        trials = [Trial(bench, arm, rate, seeds[0]) for rate in more]
        steps |= tuning_steps(trials, guess, begun)
        if not all(trial.has("validation") for trial in trials):
            for seed in seeds:
                training = 0.0 if seed == seeds[0] else _training(Trial(bench, arm, rates[0], seed), guess, begun)
                steps[arm.name, "test", seed] = guess.test + training
            return steps
        tried |= {rate: trial.score() for rate, trial in zip(more, trials, strict=True)}
    for seed in seeds if arm.spec else seeds[:1]:
        trial = Trial(bench, arm, best_rate(tried) if tried else None, seed)
        training = 0.0 if arm.spec is None or trial.has("validation") else _training(trial, guess, begun)
        steps[arm.name, "test", seed] = 0.0 if trial.has("test") else guess.test + training
    return steps


class Sayer:
    """Tells how far the ablation is; times still to come are the guesses, scaled by how true they have been."""

    def __init__(self, log: Callable[..., None], at_once: int, fixed: bool = False) -> None:
        """at_once: trials side by side. fixed: no grid is widened."""
        self._log = log
        self._fixed = fixed
        self._at_once = at_once
        self._lock = threading.Lock()
        self._arm = ""
        self._done = 0
        self._left: dict[Step, float] = {}
        self._spent = self._guessed = 0.0

    def plan(self, arms: int, steps: Mapping[Step, float]) -> None:
        """Say how long it will be. arms: how many. steps: with their guessed seconds."""
        self._left = dict(steps)
        hours = sum(steps.values()) / self._at_once / 3600
        more = "" if self._fixed else ", more where a grid is widened"
        self._say(f"{arms} arms, {len(steps)} steps: about {hours:.1f} hours{more}")

    def widened(self, steps: Mapping[Step, float]) -> None:
        """Say that there are `steps` more, of which some may have been planned."""
        with self._lock:
            self._left |= steps

    @contextmanager
    def working(self, arm: Arm, trial: Trial, split: Split) -> Iterator[None]:
        """Say that work on a trial begins, and when it has been done."""
        rate = "" if trial.rate is None else f", rate {trial.rate:g}, seed {trial.seed}"
        text, begin = f"{arm.title}{rate}", time.monotonic()
        with self._lock:
            self._arm = arm.name
            self._say(text)
        yield
        seconds = time.monotonic() - begin
        with self._lock:
            self._done += 1
            guess = self._left.pop((arm.name, split, trial.rate if split == "validation" else trial.seed))
            if seconds > 2.0:  # read from disk otherwise
                self._spent += seconds
                self._guessed += guess
            self._say(text)

    def inner(self, **fields: Any) -> None:
        """A row of the training or scoring that runs now in this process."""
        self._log(**{**fields, "arm": self._arm})

    def _say(self, text: str) -> None:
        truth = self._spent / self._guessed if self._guessed else 1.0
        left = truth * sum(self._left.values()) / self._at_once
        total = self._done + len(self._left)
        self._log(phase="ablate", done=self._done, total=total, seconds_left=left, text=text, arm=self._arm)
