"""What a production goes on with: a trained stage, and the bundle that training starts from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alter_core.mta import bundle_digest
from alter_core.training.result import RESULT_FILE, StageResult
from registry.costs import Cost


@dataclass(frozen=True)
class Start:
    """A bundle that training goes on from, and what stands for its content in keys."""

    bundle: Path
    digest: str
    version: int | None = None
    """Where it is a registered one."""
    refreshed: tuple[str, ...] = ()
    """The tasks of it that alone are trained, as their rows have changed."""

    @classmethod
    def at(cls, folder: Path, version: int | None = None, refreshed: tuple[str, ...] = ()) -> "Start":
        return cls(folder, bundle_digest(folder), version, refreshed)


@dataclass(frozen=True)
class Stage:
    """One stage that is trained."""

    folder: Path
    """Of bundle, result and metrics."""
    result: StageResult

    @classmethod
    def find(cls, folder: Path) -> "Stage | None":
        """The stage that was trained in `folder`; None while it is not done."""
        result = StageResult.read(folder / RESULT_FILE)
        return cls(folder, result) if result else None

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def cost(self) -> Cost:
        """As the card has it."""
        found: Any = asdict(self.result.cost)
        cost: Cost = found
        return cost

    @property
    def opening(self) -> Mapping[str, float]:
        """Macro scores on validation rows right "before" the gates open and with them "opened"; empty where none do."""
        return {when: score.macro for when, score in self.result.validation.opening.items()}

    def after(self) -> Start:
        """For what is trained after it."""
        return Start.at(self.bundle)
