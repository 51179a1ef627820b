"""How long an ablation takes: a guess before it begins, and what is left while it goes on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alter_core.backbone import load_backbone
from alter_core.evaluation.arms import Arm, mta_blocks
from alter_core.evaluation.trials import Bench, Trial
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.prompts import encode_prompts
from alter_core.training.precision import choose_precision, dtype_of
from alter_core.training.stages import count_steps


def expected_seconds(bench: Bench, arms: Sequence[Arm], counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """A first guess of each arm's seconds per trial, from one timed forward of the backbone over a few rows.

    A step costs each row's tokens through the whole backbone once where there is no trunk cache, and the part above
    the trunk three times (forward and backward); scoring costs one forward. The guess gives way to real times as
    trials end.
    """
    spec = bench.spec
    precision, _ = choose_precision(spec.precision, torch.device("cpu"))
    # As it will compute: in bf16, a processor without the instructions for it takes many times as long.
    model, tokenizer = load_backbone(bench.backbone, dtype_of(precision))
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


class Sayer:
    """Tells how far the ablation is; times still to come are the guesses, scaled by how true they have been."""

    def __init__(self, log: Callable[..., None], at_once: int) -> None:
        self._log = log
        self._at_once = at_once
        self._lock = threading.Lock()
        self._arm = ""
        self._done = self._total = 0
        self._guess: dict[str, float] = {}
        self._left: list[str] = []
        self._spent = self._guessed = 0.0

    def plan(self, arms: Sequence[Arm], rates: int, seeds: int, guess: Mapping[str, float]) -> None:
        """Say how long it will be. rates, seeds: of each arm that trains. guess: seconds of a trial, by arm."""
        self._guess = dict(guess)
        for arm in arms:
            # Tuning; scoring the best on test rows; the other seeds.
            count = 1 + (rates + seeds - 1 if arm.spec else 0)
            self._left += [arm.name] * count
        self._total = len(self._left)
        hours = sum(self._guess[name] for name in self._left) / self._at_once / 3600
        self._say(f"{len(arms)} arms, {self._total} steps: about {hours:.1f} hours, more where a grid is widened")

    def widened(self, arm: Arm, count: int) -> None:
        """Say that `arm` has so many trials more."""
        with self._lock:
            self._left += [arm.name] * count
            self._total += count

    @contextmanager
    def working(self, arm: Arm, trial: Trial) -> Iterator[None]:
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
            self._left.remove(arm.name)
            if seconds > 2.0:  # read from disk otherwise
                self._spent += seconds
                self._guessed += self._guess[arm.name]
            self._say(text)

    def inner(self, **fields: Any) -> None:
        """A row of the training or scoring that runs now in this process."""
        self._log(**{**fields, "arm": self._arm})

    def _say(self, text: str) -> None:
        truth = self._spent / self._guessed if self._guessed else 1.0
        left = truth * sum(self._guess[name] for name in self._left) / self._at_once
        self._log(phase="ablate", done=self._done, total=self._total, seconds_left=left, text=text, arm=self._arm)
