"""One process's part in a training: what it is given, what it tells, and when it writes checkpoints."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from alter_core.energy import Meter
from alter_core.errors import Stopped
from alter_core.job import Log, StopAsked
from alter_core.memory import release_free_memory
from alter_core.numerics import Precision
from alter_core.spec import StageSpec
from alter_core.training.by_task import Losses
from alter_core.training.checkpoint import Progressed
from alter_core.training.encoded import EncodedRows
from alter_core.training.forward import TargetForward
from alter_core.training.result import Score
from alter_core.training.row_losses import losses_of
from alter_core.training.sampling import SamplingPlan
from alter_core.training.stages import Named
from alter_core.training.trainable import Trainable
from alter_core.training.trunk_cache import TrunkCache

MEASURE_SECONDS = 1.0
"""Between two readings of the machine's energy: steps may be shorter than one takes."""


@dataclass
class Training:
    """All that one stage's training reads. Rows are encoded, the model is on its device."""

    name: str
    """For messages."""
    stage: StageSpec
    mta: Trainable
    enter: Callable[[], tuple[Named, bool]]
    """Brings the model into the stage, as `enter_stage` does: what trains, and whether the model was changed by it."""
    rows: EncodedRows
    steps: int
    """Of the optimizer, in all."""
    validation: EncodedRows
    """A few rows of each task, for the validation loss."""
    cache: TrunkCache | None
    validation_cache: TrunkCache | None
    """Without them the trunk runs in every step."""
    accelerator: Accelerator
    precision: Precision
    autocast: bool
    """Compute in bf16 over fp32 weights: needed when the backbone itself trains."""
    pad: int
    seed: int
    checkpoint_folder: Path
    checkpoint_seconds: float
    job_key: str
    score: Callable[[], Score] | None
    """Takes a validation score."""
    opens_gates: bool
    """Gates that were hard while an earlier stage taught the adapters become soft: scored right before and after."""
    log: Log
    began: float
    """time.monotonic() at the start of this process's work."""
    stop_asked: StopAsked

    def validation_losses(self, forward: TargetForward) -> Losses:
        """Mean loss over its target's tokens of each validation row (row,), in nats."""
        return losses_of(forward, self.validation, self.pad, self.validation_cache, self.autocast)


class Session:
    """The clock and the voice of a training in this process; it adds to what earlier processes spent."""

    def __init__(self, job: Training, done: Progressed) -> None:
        self.job = job
        self.done = done
        self._saved = self._mark = time.monotonic()
        done.seconds["load"] = done.seconds.get("load", 0.0) + self._mark - job.began
        self._began: tuple[float, int] = (self._mark, done.step)
        self._meter, self._joules, self._measured = Meter(), done.joules, self._mark

    def fill_caches(self, plan: SamplingPlan) -> None:
        """Bring the trunk's states of every row that this stage will read to disk; the main process does it."""
        job = self.job
        for cache, wanted in (
            (job.cache, np.unique(plan.draws)),
            (job.validation_cache, np.arange(len(job.validation))),
        ):
            if cache and job.accelerator.is_main_process:
                self.done.cache_tokens += cache.fill(wanted, self._tell_cache, self._end_if_asked)
        job.accelerator.wait_for_everyone()
        self._spent("cache")

    def begin(self) -> None:
        """The steps start now."""
        self._spent("other")
        self._began = (time.monotonic(), self.done.step)
        self._saved = time.monotonic()

    def tell_step(self, loss: float, rate: float, steps: int) -> None:
        """Log a step that has just been done."""
        begin, first = self._began
        done = self.done.step - first
        per_step = (time.monotonic() - begin) / done
        self.job.log(
            phase="train",
            step=self.done.step,
            steps=steps,
            loss=loss,
            lr=rate,
            rows_per_second=self.job.stage.rows_per_step / per_step,
            seconds_left=per_step * (steps - self.done.step),
        )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no training: its time counts neither as such nor in the rate that is told."""
        self._spent("train")
        yield
        aside = time.monotonic() - self._mark
        self._began = (self._began[0] + aside, self._began[1])
        self._spent("other")

    def keep(self, stop: bool, save: Callable[[], None]) -> None:
        """Write a checkpoint, by `save`, when one is due. Raises Stopped, after it, when the process is to end."""
        self._spent("train")
        release_free_memory()
        if stop or time.monotonic() - self._saved >= self.job.checkpoint_seconds:
            with self.aside():
                if self.job.accelerator.is_main_process:
                    save()
            self._saved = time.monotonic()
        if stop:
            self.job.accelerator.wait_for_everyone()
            raise Stopped(f"{self.job.name} was asked to stop after step {self.done.step}; it resumes from there")

    def close(self) -> None:
        """The stage is at its end."""
        self._spent("other")
        self._measure()

    def _spent(self, what: str) -> None:
        now = time.monotonic()
        self.done.seconds[what] = self.done.seconds.get(what, 0.0) + now - self._mark
        self._mark = now
        if now - self._measured >= MEASURE_SECONDS:
            self._measure()

    def _measure(self) -> None:
        self._measured = time.monotonic()
        used, before = self._meter.joules(), self._joules
        self.done.joules = None if used is None or before is None else before + used

    def _tell_cache(self, done: float, total: float, **fields: Any) -> None:
        release_free_memory()
        self._measure()
        self.job.log(phase="cache", done=done, total=total, **fields)

    def _end_if_asked(self) -> None:
        if self.job.stop_asked():
            raise Stopped(f"{self.job.name} was asked to stop while it built the trunk cache; it goes on from there")
