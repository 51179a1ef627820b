"""What training a stage cost: the record, and the table of what people are shown of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict


class Cost(TypedDict, total=False):
    """One stage's cost, as far as it is shown; a training's result holds more."""

    train_seconds: float
    flops: float
    peak_memory_mb: float
    trained_parameters: float
    trained_parts: Mapping[str, int]
    total_parameters: int
    steps: float
    joules: float | None
    """Of the whole machine meanwhile; None where it is not measured."""


@dataclass(frozen=True)
class Measure:
    """One line of a table of costs."""

    key: Literal["train_seconds", "joules", "flops", "peak_memory_mb", "trained_parameters", "steps"]
    label: str
    unit: str
    scale: float
    form: str

    def shown(self, cost: Cost, unit: bool = False) -> str:
        """A stage's value; empty where it is not known."""
        if self.key not in cost:
            return ""
        if (amount := cost[self.key]) is None:
            return "not measured"
        value = f"{amount / self.scale:{self.form}}"
        return f"{value} {self.unit}" if unit and self.unit else value


MEASURES = (
    Measure("train_seconds", "training time", "s", 1.0, ",.1f"),
    Measure("joules", "energy of the machine", "Wh", 3600.0, ",.2f"),
    Measure("flops", "floating-point operations", "TFLOP", 1e12, ",.1f"),
    Measure("peak_memory_mb", "peak memory", "MB", 1.0, ",.0f"),
    Measure("trained_parameters", "trained parameters", "M", 1e6, ",.2f"),
    Measure("steps", "steps", "", 1.0, ",.0f"),
)


def share(measure: Measure, part: Cost, whole: Cost) -> str:
    """`part` in per cent of `whole`; empty where that tells nothing."""
    one, two = whole.get(measure.key), part.get(measure.key)
    return f"{two / one:.0%}" if one and two is not None else ""
