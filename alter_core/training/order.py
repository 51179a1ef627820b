"""What a training process is asked to do. Whoever asks for it needs no torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from alter_core.job import Job
from alter_core.spec import DomainSpec


class TrainingJob(Job):
    """What one training process does."""

    stage: Literal["stage_one", "stage_two", "add_task", "refresh"]
    """Which part of the spec trains; add_task and refresh train as the stage that teaches task adapters."""
    task: str | None = None
    """The task that add_task adds to the bundle `start`."""
    refreshed: tuple[str, ...] = ()
    """The tasks of the bundle `start` that refresh trains; the others stay as they are."""
    taken_back: Path | None = None
    """Bundle that the refreshed tasks get back their own weights of, in place of any training."""
    spec: DomainSpec
    """With labels filled in (DomainSpec.with_labels)."""
    dataset: Path
    """Folder of a TaskDataset."""
    backbone: Path
    """Folder of a converted backbone."""
    start: Path | None = None
    """Bundle to start from; unset: fresh MTA layers in the backbone."""
    output: Path
    """Folder for bundle and result.json."""
    checkpoints: Path
    """Folder for checkpoints; they are removed once the stage is finished."""
    trunk_cache: Path
    """Folder of trunk caches, shared by all jobs."""
    seed: int = 0
    """Of everything random."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Time between checkpoints; 0 writes one after every step."""

    @property
    def only(self) -> tuple[str, ...] | None:
        """The tasks that alone train; None: all do."""
        return (self.task,) if self.task else self.refreshed or None
