"""The weights that a stage ends with, where they are not those of its last step."""

from dataclasses import asdict

import numpy as np
from torch import Tensor

from alter_core.spec.stage import FREE
from alter_core.training.by_task import adapters_off, take_better
from alter_core.training.checkpoint import Progressed, add_to_mean, copy_weights, put_weights
from alter_core.training.forward import TargetForward
from alter_core.training.result import StepScore
from alter_core.training.session import Training
from alter_core.training.stages import Named, scores_due


class Ending:
    """By what the stage asks for: the best validation score's weights, each task's least validation loss, or the mean
    over the last steps. What was found is told in `done`; `weights` are None where the last step's are to stay."""

    def __init__(
        self, job: Training, forward: TargetForward, done: Progressed, trained: Named, weights: dict[str, Tensor] | None
    ) -> None:
        """weights: those of the checkpoint that the stage goes on from."""
        self.weights = weights
        self._job, self._forward, self._done, self._trained = job, forward, done, trained
        looks = job.stage.best_by_task or job.score is not None
        self._due = frozenset(scores_due(job.stage, job.steps)) if looks else frozenset()
        self._tail = job.steps - round(job.stage.average * job.steps)

    def begin(self) -> None:
        """The state that the stage begins with is one to beat; where gates are free, so is one without adapters."""
        stage, done = self._job.stage, self._done
        if stage.best_by_task:
            done.by_task, self.weights = {}, copy_weights(self._trained)
            if stage.gate in FREE and "gates" in stage.parts:
                with adapters_off(self._trained):
                    self._look_by_task("adapters off")
        elif self._due and "opened" in done.opening:
            done.best, self.weights = done.opening["opened"].macro, copy_weights(self._trained)

    @property
    def is_due(self) -> bool:
        """Whether to look at validation rows after the step that was done."""
        return self._done.step in self._due

    def look(self) -> None:
        """Take the state as it is, where it is better. Sets `stopped_early` once patience is at its end."""
        if self._job.stage.best_by_task:
            self._look_by_task(f"step {self._done.step}")
        elif self._is_better():
            self.weights = copy_weights(self._trained)

    def average(self) -> None:
        """Add the state as it is to the mean, where the stage is in its tail."""
        if self._done.step > self._tail:
            self.weights = add_to_mean(self.weights, self._trained, self._done.step - self._tail - 1)

    def put(self) -> None:
        """Leave the model with the weights that the stage ends with."""
        if self.weights is not None and self._done.best_step != self._done.step:
            put_weights(self.weights, self._trained)

    def _look_by_task(self, state: str) -> None:
        done, job = self._done, self._job
        assert self.weights is not None
        assert done.by_task is not None
        rows = job.validation.task_ids, np.array(done.row_losses), job.validation_losses(self._forward)
        take_better(done.by_task, self.weights, state, job.mta, self._trained, rows)

    def _is_better(self) -> bool:
        """Take the validation score; True when it is the best so far."""
        job, done = self._job, self._done
        assert job.score is not None
        score = StepScore(**asdict(job.score()), step=done.step)
        done.scores.append(score)
        job.log(phase="validate", when="score", **asdict(score))
        if done.best is None or score.macro > done.best:
            done.best, done.best_step = score.macro, done.step
            return True
        patience = job.stage.patience
        looks_since = sum(1 for taken in done.scores if taken.step > done.best_step)
        done.stopped_early = patience is not None and looks_since >= patience
        return False
