"""What a training process is asked to do. Whoever asks for it needs no torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from alter_core.job import Job
from alter_core.spec import DomainSpec


class TrainingJob(Job):
    """What one training process does."""

    stage: Literal["stage_one", "stage_two", "add_task"]
    """Which part of the spec trains; add_task trains as the stage that teaches task adapters."""
    task: str | None = None
    """The task that add_task adds to the bundle `start`."""
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
