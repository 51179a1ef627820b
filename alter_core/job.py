"""A job's own side: it reads what to do from a JSON file, tells how far it is, and ends with a code that says how.

python -m MODULE JOB.json -> rows appended to the job's `metrics`; exit code 0: done. 2: the input is wrong, 1: there
is no result; a row of phase `error` says why. 143: it was asked to stop (SIGTERM), and what it did is kept.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from alter_core.collector import collect_rarely
from alter_core.errors import AlterError, SpecError, Stopped
from alter_core.problems import lines_of

MACHINES = "PET_NNODES"
"""Torch's own variable of its launcher: how many machines train together. docs/scaling.md has those beside it."""
TERMINATED = 143
"""Exit code of a process that SIGTERM has ended: 128 and the signal's number, as shells give it."""
Log = Callable[..., None]
"""Takes a row's fields, of which `phase` says what they are about."""
StopAsked = Callable[[], bool]


class Job(BaseModel):
    """What a process of its own is to do."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    metrics: Path
    """JSON lines are appended here, as the work goes on."""


Kind = TypeVar("Kind", bound=Job)


class Metrics:
    """Appends rows to a job's metrics file; silent in all processes but the main one of those that share a job."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._silent = os.environ.get("RANK", "0") != "0"

    def __call__(self, **fields: Any) -> None:
        if not self._silent:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**fields, "time": time.time()}, ensure_ascii=False) + "\n")


def read_job(kind: type[Kind], path: Path, what: str) -> Kind:
    """Read a job file. Raises SpecError with every problem."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise SpecError(f"{path} is no {what} job", lines_of(error)) from error


def main(
    kind: type[Kind],
    run: Callable[[Kind, Log, StopAsked], object],
    what: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the job that the command line names; returns the exit code. what: for messages, the job's room.

    run: should import what is heavy itself, so that a wrong job file is told at once. SIGTERM does not end it: it asks
    the function that it is given, and raises Stopped where there is nothing left to keep.
    """
    collect_rarely()
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        sys.stderr.write(f"usage: python -m alter_core.{what}.job JOB.json\n")
        return SpecError.exit_code
    log: Log | None = None
    try:
        job = read_job(kind, Path(given[0]), what)
        log = Metrics(job.metrics)
        run(job, log, _asked_to_stop())
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return TERMINATED
    except AlterError as error:
        sys.stderr.write(f"{error}\n")
        if log:
            log(phase="error", headline=error.headline, problems=list(error.problems), exit_code=error.exit_code)
        return error.exit_code
    return 0


def _asked_to_stop() -> StopAsked:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    return lambda: bool(asked)
