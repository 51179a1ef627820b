"""An arm of an ablation: what is compared, as its trials know it."""

from dataclasses import dataclass
from typing import Literal

from alter_core.spec import DomainSpec, StageSpec

Family = Literal["mta", "baseline", "instead"]
"""instead: what a user would take instead of a model; it is told beside the best baseline, never as it."""


@dataclass(frozen=True)
class PeftChoice:
    """Adapters of the library peft on every linear of the blocks that have MTA layers."""

    kind: Literal["lora", "poly"]
    rank: int


@dataclass(frozen=True)
class Arm:
    """One way to make a model for the domain."""

    name: str
    title: str
    family: Family
    spec: DomainSpec | None
    """How it trains; None: nothing trains. A peft arm trains `spec.stage_one`."""
    peft: PeftChoice | None = None

    def at(self, rate: float, seed: int) -> DomainSpec:
        """The arm's spec with stage one at `rate`; stage two's rates keep their ratio to stage one's."""
        assert self.spec is not None
        factor = rate / self.spec.stage_one.learning_rate
        stages = {str(name): _scaled(stage, factor) for name, stage in self.spec.stages.items()}
        return self.spec.model_copy(update={**stages, "seed": seed})


def _scaled(stage: StageSpec, factor: float) -> StageSpec:
    gates = stage.gate_learning_rate
    return stage.model_copy(
        update={
            "learning_rate": stage.learning_rate * factor,
            "gate_learning_rate": gates * factor if gates else None,
        }
    )
