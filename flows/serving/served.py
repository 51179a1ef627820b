"""What is served: a registered version, loaded and verified."""

from dataclasses import dataclass
from functools import cached_property

from alter_core.inference.predict import Predictor


@dataclass(frozen=True, eq=False)
class Served:
    """One version of a domain that answers."""

    domain: str
    version: int
    predictor: Predictor

    @property
    def name(self) -> str:
        """As answers name it."""
        return f"{self.domain}/{self.version}"

    @cached_property
    def labelled(self) -> frozenset[str]:
        """Tasks whose answers are labels."""
        return frozenset(task.name for task in self.predictor.spec.tasks if task.task_type.labelled)
