"""Parity: what an export answers in a process of its own, beside what the model answers that it was made of."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alter_core.errors import BundleError
from alter_core.inference.prediction import Prediction

PROGRAM = "ask.py"
SECONDS = 1800.0


@dataclass(frozen=True)
class Answered:
    """One row, asked of both."""

    task: str
    input: str
    champion: str
    champion_probability: float
    export: str | None
    """None where it refuses the input."""
    export_probability: float | None
    """None where its engine does not tell."""


@dataclass(frozen=True)
class Parity:
    """How far an export is from the model that it was made of."""

    rows: int
    different_answers: int
    largest_probability_difference: float
    """Where the answers are the same."""
    asked_by: str
    each: tuple[Answered, ...]


def measure_parity(
    folder: Path, rows: Sequence[tuple[str, str]], champion: Sequence[Prediction], engines: Sequence[str]
) -> Parity:
    """Ask the export in `folder` for `rows` of task and input. engines: the libraries by which it answers.

    Raises BundleError with the program's own words where it fails.
    """
    got = asked_in_fresh_process(folder / PROGRAM, rows)
    each = tuple(
        Answered(task, text, own.text, own.score, other["answer"], other["probability"])
        for (task, text), own, other in zip(rows, champion, got, strict=True)
    )
    alike = [row for row in each if row.champion == row.export]
    gaps = [
        abs(row.champion_probability - row.export_probability) for row in alike if row.export_probability is not None
    ]
    named = ", ".join(f"{name} {version(name)}" for name in engines)
    return Parity(len(each), len(each) - len(alike), max(gaps, default=0.0), named, each)


def asked_in_fresh_process(program: Path, rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """What `program` answers to rows, without this factory on its path."""
    lines = "".join(json.dumps({"task": task, "input": text}) + "\n" for task, text in rows)
    try:
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=program.parent,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
            input=lines,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"the export gave no answers to {len(rows)} rows within {SECONDS:.0f} s") from None
    if done.returncode:
        tail = [line for line in done.stderr.splitlines() if line.strip()][-5:]
        raise BundleError("what was exported cannot be asked in a process of its own; report it", tail)
    return [json.loads(line) for line in done.stdout.splitlines()]
