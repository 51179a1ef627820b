"""Train one stage in a process of its own, `python -m alter_core.training.job JOB.json`, or in several, by `torchrun`.

    JOB.json (TrainingJob) -> output/bundle, output/result.json; rows appended to `metrics` as it goes

Exit code 0: both are there. 2: the input is wrong, and the last row of `metrics` says how. 143: it was asked to stop
(SIGTERM) and has written a checkpoint. The same job started again goes on from its last checkpoint.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alter_core.errors import AlterError, SpecError, Stopped
from alter_core.spec import DomainSpec

EXIT_STOPPED = 143


class TrainingJob(BaseModel):
    """What one training process does."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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
    metrics: Path
    """JSON lines are appended here."""
    seed: int = 0
    """Of everything random."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Time between checkpoints; 0 writes one after every step."""


def read_job(path: Path) -> TrainingJob:
    """Read a job file. Raises SpecError with every problem."""
    try:
        return TrainingJob.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = [f"{' > '.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise SpecError(f"{path} is no training job", problems) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        sys.stderr.write("usage: python -m alter_core.training.job JOB.json\n")
        return SpecError.exit_code
    log: Callable[..., None] = lambda **_fields: None  # noqa: E731 - until the job says where to
    try:
        job = read_job(Path(given[0]))
        log = _Metrics(job.metrics)
        # Heavy imports only now: a wrong job file is told at once.
        from transformers.utils import logging

        from alter_core.training.run import run

        logging.disable_progress_bar()  # progress goes to the metrics file
        run(job, log, _asked_to_stop())
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return EXIT_STOPPED
    except AlterError as error:
        sys.stderr.write(f"{error}\n")
        log(phase="error", headline=error.headline, problems=list(error.problems), exit_code=error.exit_code)
        return error.exit_code
    return 0


class _Metrics:
    """Appends rows to the metrics file; silent in all processes but the main one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._silent = os.environ.get("RANK", "0") != "0"

    def __call__(self, **fields: Any) -> None:
        if not self._silent:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**fields, "time": time.time()}) + "\n")


def _asked_to_stop() -> Callable[[], bool]:
    """Whether SIGTERM has come; it is acted on at the end of a step."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    return lambda: bool(asked)


if __name__ == "__main__":
    sys.exit(main())
