"""One table: task type -> instruction, decoding and metrics. A task's own spec overrides any of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

TaskTypeName = Literal["classification", "pair_classification", "extraction", "generation", "coreference"]
MetricName = Literal["accuracy", "macro_f1", "exact_match", "token_f1", "rouge_l"]


@dataclass(frozen=True)
class TaskType:
    """Defaults of one kind of task."""

    instruction: str
    """Put before the input when the task's spec gives no instruction."""
    labelled: bool
    """The answer is one of the task's labels: decoded under constraint, with a probability each."""
    metrics: tuple[MetricName, ...]
    """The first is the task's score in the macro average; all lie in 0..1, higher is better."""
    max_target_tokens: int
    """Answers are cut here, in training and in generation."""


TASK_TYPES: Mapping[TaskTypeName, TaskType] = MappingProxyType(
    {
        "classification": TaskType("Choose the label that fits the text.", True, ("accuracy", "macro_f1"), 24),
        "pair_classification": TaskType("Say how the two texts relate.", True, ("accuracy", "macro_f1"), 16),
        "extraction": TaskType("Copy the answer from the text.", False, ("token_f1", "exact_match"), 48),
        "generation": TaskType("Write the answer.", False, ("rouge_l", "exact_match"), 64),
        "coreference": TaskType("Say what the marked word refers to.", False, ("exact_match", "token_f1"), 16),
    }
)
