"""Checkpoints: all that a stage needs to go on as if it had never stopped. Safetensors and JSON, whole or not there.

    <checkpoints>/state-N/   checkpoint.json (job key, step, scores and gate tables so far, precision)
                             now.safetensors (trained weights, optimizer moments), best.safetensors (best so far)

A new one is whole before the last one goes, so that a kill leaves one at any moment. What the rest is: the sampler's
position is the step, and random numbers (dropout) are seeded by the step.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from alter_core.mta.bundle_parts import storable
from alter_core.numerics import Precision
from alter_core.training.result import GateTable, Losses, Score, StepScore, TaskBest
from alter_core.training.stages import Named
from alter_core.whole import Result, written_whole

_FOLDER = "state-"
_FORMAT = 1
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


@dataclass
class Progressed:
    """How far a stage is; everything in it is JSON."""

    step: int = 0
    """Optimizer steps done."""
    losses: dict[str, Losses] = field(default_factory=dict)
    """When ("before", "opened", "after") -> losses."""
    scores: list[StepScore] = field(default_factory=list)
    """Validation scores in order."""
    opening: dict[str, Score] = field(default_factory=dict)
    """Where gates open, right "before" and with them "opened"."""
    gate_tables: dict[str, GateTable] = field(default_factory=dict)
    """"before" and "after"."""
    best: float | None = None
    """Best validation macro score."""
    best_step: int = 0
    """0: that of the opened gates, before any step."""
    row_losses: list[float] = field(default_factory=list)
    """Of the validation rows as the stage began, where each task is to end with its best."""
    by_task: dict[str, TaskBest] | None = None
    stopped_early: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on what: load, cache, train, other; over all processes that worked on the stage one after the other."""
    joules: float | None = 0.0
    """Of the machine meanwhile; None where one of these processes could not measure it."""
    tokens: int = 0
    """Token positions trained on, padding not counted."""
    cache_tokens: int = 0
    flops_per_token: float = 0.0
    """Of a training step, forward and backward, counted by torch on the first one."""


@dataclass(frozen=True)
class _Record(Result):
    """What checkpoint.json holds."""

    format: int
    job_key: str
    precision: Precision
    progressed: Progressed


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read."""

    progressed: Progressed
    trained: dict[str, Tensor]
    moments: dict[str, Tensor]
    best: dict[str, Tensor] | None


def save_checkpoint(
    folder: Path,
    job_key: str,
    precision: Precision,
    progressed: Progressed,
    trained: Named,
    optimizer: Optimizer,
    best: dict[str, Tensor] | None,
) -> None:
    """Write a checkpoint in place of the last one. Raises WorkspaceError when the folder cannot be written."""
    tensors = {f"trained.{name}": p.detach() for name, p in trained}
    for name, parameter in trained:
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"moment.{key}.{name}"] = value
    for half_written in folder.glob(f".{_FOLDER}*"):  # by a process that was killed; the folder is this job's alone
        shutil.rmtree(half_written, ignore_errors=True)
    earlier = _newest_first(folder)
    number = int(earlier[0].name.removeprefix(_FOLDER)) + 1 if earlier else 0
    record = _Record(_FORMAT, job_key, precision, progressed).to_json()
    with written_whole(folder / f"{_FOLDER}{number}") as made:
        made.mkdir()
        save_file(storable(tensors), made / "now.safetensors")
        if best is not None:
            save_file(storable(best), made / "best.safetensors")
        (made / "checkpoint.json").write_text(json.dumps(record), encoding="utf-8")
    for one in earlier:
        shutil.rmtree(one, ignore_errors=True)


def load_checkpoint(folder: Path, job_key: str, log: Callable[..., None]) -> Checkpoint | None:
    """The newest readable checkpoint of this very job, or None: one of other work is left alone, to be written over.

    A damaged one (a disk that failed) must not end every later run: `log` is told, and the work is done again.
    """
    for state in _newest_first(folder):
        try:
            record = _record(state, job_key)
            if record is not None:
                return _read(state, record.progressed)
        except _UNREADABLE as error:
            log(phase="start", text=f"checkpoint {state} is damaged and left out: {error}")
    return None


def _read(state: Path, progressed: Progressed) -> Checkpoint:
    tensors = load_file(state / "now.safetensors")
    best = state / "best.safetensors"

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return Checkpoint(
        progressed,
        part("trained."),
        part("moment."),
        load_file(best) if best.exists() else None,
    )


def precision_begun(folder: Path, job_key: str) -> Precision | None:
    """The precision of this very job's checkpoint, or None: a measurement may fall out differently, a job may not."""
    for state in _newest_first(folder):
        with suppress(*_UNREADABLE):
            record = _record(state, job_key)
            if record is not None:
                return record.precision
    return None


def drop_checkpoints(folder: Path) -> None:
    """Remove what a finished stage no longer needs."""
    shutil.rmtree(folder, ignore_errors=True)  # with what a kill left of one that was being written


@torch.no_grad()
def restore(checkpoint: Checkpoint, trained: Named, optimizer: Optimizer) -> None:
    """Put weights and optimizer moments back."""
    put_weights(checkpoint.trained, trained)
    for name, parameter in trained:
        state = {
            key.partition(".")[0]: value.to(parameter.device)
            for key, value in checkpoint.moments.items()
            if key.partition(".")[2] == name
        }
        if state:
            optimizer.state[parameter] = state


@torch.no_grad()
def put_weights(weights: dict[str, Tensor], trained: Named) -> None:
    """Copy saved weights over the trained parameters."""
    for name, parameter in trained:
        parameter.copy_(weights[name])


def copy_weights(trained: Named) -> dict[str, Tensor]:
    """The trained parameters as they are now, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in trained}


def add_to_mean(mean: dict[str, Tensor] | None, trained: Named, count: int) -> dict[str, Tensor]:
    """The mean of the parameters as they are now and `count` states before, whose mean is given."""
    if mean is None:
        return copy_weights(trained)
    for name, p in trained:
        mean[name].lerp_(p.detach().cpu(), 1 / (count + 1))
    return mean


def _newest_first(folder: Path) -> list[Path]:
    """The folders of checkpoints; more than one where a kill came between a new one and the end of the last."""
    found = [path for path in folder.glob(f"{_FOLDER}*") if path.name.removeprefix(_FOLDER).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_FOLDER)), reverse=True)


def _record(state: Path, job_key: str) -> _Record | None:
    """What checkpoint.json holds, where it is of this very job. Raises what _UNREADABLE names."""
    record = _Record.from_json(json.loads((state / "checkpoint.json").read_text(encoding="utf-8")))
    return record if record.format == _FORMAT and record.job_key == job_key else None
