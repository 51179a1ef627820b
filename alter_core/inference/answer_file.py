"""Answers to a file of rows, written beside them: JSONL, CSV or TSV in and out, a chunk at a time."""

import csv
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import orjson

from alter_core.data.cells import Cells, WrittenNumber
from alter_core.data.files import ENDINGS, read_file
from alter_core.data.packed import COMPRESSED
from alter_core.data.places import File
from alter_core.data.separated import SEPARATORS
from alter_core.errors import DataError
from alter_core.inference.predict import Predictor
from alter_core.problems import Problems, TooManyProblems, did_you_mean, kind_of, listed
from alter_core.text import damage
from alter_core.whole import written_whole

CHUNK_ROWS = 4096
"""Rows in memory at once: enough for batches of like lengths, few enough for any machine."""
ADDED = ("prediction", "score", "truncated", "abstain")


class Progress(Protocol):
    """Hears of rows that are answered; fields: rows_per_second, seconds_left."""

    def __call__(self, done: int, total: int, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Answered:
    """What was done to a file."""

    rows: int
    truncated: int
    """Rows whose input was over the task's max_input_tokens."""
    seconds: float
    warnings: tuple[str, ...] = ()
    """What was met in the file and did not stop it, with its line."""


@dataclass(frozen=True)
class AnswerFile:
    """A file of rows and the file that their answers go to.

    A row has the columns `task` and `input` (no `task` where `task` is given for all), and keeps whatever else it has.
    """

    source: Path
    target: Path
    task: str | None = None

    def check_paths(self) -> None:
        """Raises DataError, with every problem, for files that cannot be meant. Reads no row."""
        problems = []
        if not self.source.is_file():
            problems.append(
                f"{self.source}: {'is no file' if self.source.exists() else 'is not there'}; name a file of rows"
            )
        for path, role in ((self.source, "rows are read from"), (self.target, "answers are written to")):
            ending = _ending(path) if path is self.source else path.suffix.lower()
            if ENDINGS.get(ending) not in ("jsonl", *SEPARATORS):
                problems.append(f"{path}: {role} .jsonl, .csv or .tsv, and {ending or 'no ending'} is none of them")
        if self.target.is_dir():
            problems.append(f"{self.target}: is a folder; name a file in it")
        elif self.target.exists() and self.source.exists() and self.target.samefile(self.source):
            problems.append(f"{self.target}: is the file that rows are read from; name another one")
        if problems:
            raise DataError("these files cannot be used", problems)

    def answer(self, predictor: Predictor, progress: Progress) -> Answered:
        """Answer every row, and write it with ADDED, in the rows' own order.

        The rows are read twice: all are checked before the first is answered. The target appears whole or not at all.
        Raises DataError with file and line of every problem (the first ones, where there are many), and what
        `Predictor.predict` raises.
        """
        self.check_paths()
        total, columns, warnings = self._check(predictor.spec.task_names)
        begin, done, truncated = time.monotonic(), 0, 0
        with written_whole(self.target) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
            write = _writer(file, ENDINGS[self.target.suffix.lower()], [*columns, *ADDED])
            for rows in self._chunks():

                def report(part: int, _rows: int, before: int = done) -> None:
                    rate = (before + part) / max(time.monotonic() - begin, 1e-9)
                    left = (total - before - part) / rate
                    progress(before + part, total, rows_per_second=rate, seconds_left=left)

                tasks = [self.task or str(row["task"]) for row in rows]
                answers = predictor.predict(tasks, [str(row["input"]) for row in rows], report)
                for row, answer in zip(rows, answers, strict=True):
                    write({**row, **answer.to_json(), "score": round(answer.score, 6)})
                done += len(rows)
                truncated += sum(answer.truncated for answer in answers)
        return Answered(done, truncated, time.monotonic() - begin, warnings)

    def _rows(self, problems: Problems) -> Iterator[tuple[int, Cells]]:
        return read_file(File(self.source.name, self.source), ENDINGS[_ending(self.source)], (), problems)

    def _chunks(self) -> Iterator[list[Cells]]:
        problems = Problems()
        rows = self._rows(problems)
        while chunk := [row for _, row in itertools.islice(rows, CHUNK_ROWS)]:
            yield chunk
        problems.raise_if_any(f"{self.source} changed while it was read")

    def _check(self, tasks: Sequence[str]) -> tuple[int, list[str], tuple[str, ...]]:
        """Rows in all, their columns in order of appearance, and what is to be told of them.

        Raises DataError for what is wrong with any.
        """
        if self.task is not None and self.task not in tasks:
            raise DataError(f"unknown task {self.task!r}{_close(self.task, tasks)}")
        problems = Problems()
        count, columns = 0, dict[str, None]()
        try:
            for line, row in self._rows(problems):
                count += 1
                if not row.keys() <= columns.keys():
                    columns |= dict.fromkeys(row)
                lacks = [name for name in self._needed if name not in row]
                for text in self._wrong(row, lacks, tasks):
                    problems.add(f"{self.source.name}:{line}", text)
                if lacks and _ending(self.source) in (".csv", ".tsv"):
                    break  # the header's fault: every other row would say the same
        except TooManyProblems:
            pass
        if not count and not problems.lines:
            problems.add(self.source.name, "holds no rows")
        problems.raise_if_any(f"{self.source} cannot be answered")
        notes = [f"{place}: {note['text']}; {note['remedy']}" for note in problems.notes() for place in note["places"]]
        return count, list(columns), tuple(notes)

    @property
    def _needed(self) -> tuple[str, ...]:
        return ("task", "input") if self.task is None else ("input",)

    def _wrong(self, row: Cells, lacks: Sequence[str], tasks: Sequence[str]) -> Iterator[str]:
        for name in lacks:
            hint = "; --task names one for all rows" if name == "task" else ""
            yield f"there is no column {name!r}{_close(name, list(row))}{hint}"
        if self.task is not None and "task" in row:
            yield "has a task of its own; leave --task out, or the column"
        if taken := [name for name in ADDED if name in row]:
            yield f"has a column {listed(taken)} already, which the answer would overwrite; rename it"
        for name in self._needed:
            value = row.get(name)
            if name in lacks:
                continue
            if not isinstance(value, str):
                yield f"{name} must be a text, got {kind_of(value)}"
            elif not value.strip():
                yield f"{name} is empty"
            elif problem := damage(value):
                yield f"{name} {problem}"
            elif name == "task" and value not in tasks:
                yield f"unknown task {value!r}{_close(value, tasks)}"


def _ending(path: Path) -> str:
    """The ending that tells a file's format: that before .gz and the like."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def _close(given: str, known: Sequence[str]) -> str:
    return did_you_mean(given, known) or f"; there is {listed(known) or 'none'}"


def _writer(file: IO[str], kind: str, columns: Sequence[str]) -> Callable[[Cells], object]:
    if kind == "jsonl":
        return lambda row: file.write(_json(row) + "\n")
    table = csv.DictWriter(_Lines(file), columns, restval="", delimiter=SEPARATORS[kind], lineterminator="\r\n")
    table.writeheader()
    return lambda row: table.writerow({name: _cell(value) for name, value in row.items()})


class _Lines:
    """Ends rows in a plain line feed. csv quotes the characters of its own line end alone, and a bare carriage return
    in a cell would read as a row's end.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def _cell(value: Any) -> str:
    """A value of JSON in a cell: text as it is, null as nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """JSON, with numbers of the file's own as their digits stood there."""
    return orjson.dumps(value, default=_number).decode()


def _number(value: Any) -> orjson.Fragment:
    if isinstance(value, WrittenNumber):
        return orjson.Fragment(value.text)
    raise TypeError(f"no value of JSON: {value!r}")
