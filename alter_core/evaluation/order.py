"""What an evaluation process is asked to do. Whoever asks for it needs no torch."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from alter_core.job import Job
from alter_core.spec import DomainSpec


class Subject(BaseModel):
    """What is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """How progress rows call it."""
    bundle: str | None = None
    """Folder of a bundle; null: the backbone as it is, zero-shot."""
    kind: Literal["model", "bag_of_words"] = "model"
    """bag_of_words: no model, but what a user would take instead of one, as `BagOfWordsOrCopy` says."""
    output: str
    """Folder that gets scorecard.json and predictions.jsonl."""


class EvaluationJob(Job):
    """Everything that an evaluation needs, as JSON."""

    dataset: str
    """Folder of a TaskDataset, whose test rows are scored; at most spec.evaluation.max_rows a task."""
    spec: DomainSpec
    """The domain, with the dataset's labels filled in."""
    subjects: tuple[Subject, ...]
    """Scored in this order."""
    backbone: str
    """Folder of the converted backbone."""
    calibrate: str | None = None
    """The subject whose label tasks get their temperatures from validation rows; the others have their bundles'."""
    answers: Path | None = None
    """Folder of answers that are kept from one job to the next, of the same code."""
    metrics: Path
    """JSON lines, appended: {"phase": "evaluate", "task", "done", "total", "seconds_left"}; rows count over all
    subjects."""
