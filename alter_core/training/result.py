"""What a stage's training ends with, as result.json holds it. Whoever reads one needs no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from alter_core.whole import Result

RESULT_FILE = "result.json"
"""In a stage's folder, beside its bundle, which was there before it."""
Losses = Mapping[str, float]
"""Task -> mean validation loss, in nats per token."""
GateTable = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Layer -> task -> adapter -> weight."""


@dataclass(frozen=True)
class Score:
    """A validation score, taken by writing answers."""

    macro: float
    tasks: Mapping[str, float]
    """Of each task; none where nobody asks."""


@dataclass(frozen=True)
class StepScore(Score):
    """The score after so many optimizer steps."""

    step: int


@dataclass(frozen=True)
class TaskBest:
    """The state that a task ended with, where it is not the one it began with."""

    state: str
    """"adapters off", or "step N"."""
    gain: float
    """How much less its validation loss was than at the start, in nats a row."""
    error: float
    """Standard error of that."""


@dataclass(frozen=True)
class Validation:
    """What validation rows said."""

    losses: Mapping[str, Losses]
    """When ("before", "opened", "after") -> losses."""
    opening: Mapping[str, Score]
    """Where gates open, right "before" and with them "opened"."""
    scores: tuple[StepScore, ...]
    """In order."""
    best_step: int
    """Whose weights the stage ended with; 0: those with the gates just opened, or no score was taken."""
    by_task: Mapping[str, TaskBest] | None = None
    """Where each task ended with its own best: those that found a better state than the stage began with."""


@dataclass(frozen=True)
class StageCost:
    """What a stage took, over all processes that worked on it one after the other."""

    wall_seconds: float
    train_seconds: float
    """Of the steps alone."""
    cache_seconds: float
    """Of filling the trunk cache."""
    flops: float
    """Of the steps, forward and backward."""
    cache_flops: float
    cache_mb: float
    """Of the whole trunk cache on disk."""
    peak_memory_mb: float
    trained_parameters: int
    trained_parts: Mapping[str, int]
    """Part of the model -> parameters of it that trained."""
    total_parameters: int
    steps: int
    rows: int
    tokens: int
    """Positions trained on, padding not counted."""
    joules: float | None = None
    """That the machine used meanwhile, whoever else worked on it; None where it is not measured."""


@dataclass(frozen=True)
class StageResult(Result):
    """What a stage's training ended with."""

    job_key: str
    """Of all that the trained weights depend on, beside the code."""
    stage: str
    precision: str
    bf16_gain: float | None
    """How much faster bf16's matmul was, where that was measured."""
    device: str
    processes: int
    validation: Validation
    stopped_early: bool
    gates: Mapping[str, GateTable]
    """"before" and "after"."""
    trained_digest: str
    untouched_digest: str | None
    """Of the weights that adding a task must leave alone."""
    cost: StageCost
    bundle_digest: str | None = None


def trained_in_all(trained_parts: Iterable[Mapping[str, int]]) -> int:
    """Parameters that any of several stages trained, given each one's parts: a part trains whole, and counts once."""
    parts: dict[str, int] = {}
    for own in trained_parts:
        for part, count in own.items():
            parts[part] = max(count, parts.get(part, 0))
    return sum(parts.values())
