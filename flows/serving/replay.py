"""Replay: two versions on what really came, from a request log."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import orjson
from rich.table import Table

from alter_core.errors import DataError
from alter_core.inference.prediction import Prediction
from alter_core.problems import counted
from alter_core.whole import written_whole
from flows.production.display import Display, plain_console
from flows.production.stores import load_predictor, model_name
from registry.scorecard import number

CHUNK_ROWS = 512
CHANGES = 5  # pairs of answers that are shown of a task
Row = tuple[str, str]
"""Task and input."""


class Change(TypedDict):
    """What one version answers and the other."""

    first: str
    second: str
    requests: int


@dataclass(frozen=True)
class TaskReplay:
    """One task of both versions."""

    requests: int
    rows: int
    """Different ones."""
    differing: int
    """Rows that the two answer otherwise."""
    differing_requests: int
    first_score: float
    """Mean over requests."""
    second_score: float
    changes: Sequence[Change]
    """The commonest."""


@dataclass(frozen=True)
class Replay:
    """Two versions of a domain on the requests of a log."""

    tasks: Mapping[str, TaskReplay]
    to_label: Sequence[Mapping[str, object]]
    """Rows that the two answer otherwise, the most frequent first, with a `target` to be filled in."""
    left_out: Mapping[str, int]
    """Logged rows that were not replayed, by reason."""

    def json(self) -> dict[str, Any]:
        """For programs, without the rows."""
        return {"tasks": {name: asdict(task) for name, task in self.tasks.items()}, "left_out": dict(self.left_out)}

    def write(self, file: Path) -> None:
        """The rows to label, as JSONL."""
        with written_whole(file) as scratch:
            scratch.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.to_label))


def replay(domain: str, first: str, second: str, log: Path, display: Display) -> Replay:
    """Ask both versions what the log holds of `domain`: one version in memory at a time.

    Raises DataError where the log holds nothing that both can be asked; RegistryError and BundleError for a version
    that cannot be loaded.
    """
    asked, left_out = _read(log, model_name(domain))
    answers: list[dict[Row, Prediction]] = []
    for which in (first, second):
        predictor = load_predictor(domain, which)
        known = set(predictor.spec.task_names)
        for row in [row for row in asked if row[0] not in known]:
            left_out[f"{which} has no task {row[0]}"] += asked.pop(row)
        rows = list(asked)
        found: dict[Row, Prediction] = {}
        for begin in range(0, len(rows), CHUNK_ROWS):
            part = rows[begin : begin + CHUNK_ROWS]
            said = predictor.predict([task for task, _ in part], [text for _, text in part])
            found.update(zip(part, said, strict=True))
            display.update(f"replay {which}", begin + len(part), len(rows), {})
        answers.append(found)
        del predictor
    if not asked:
        told = [f"{counted(count, 'row')}: {why}" for why, count in left_out.items()]
        raise DataError(f"{log} holds no request that both versions of {domain} can be asked", told)
    tasks = {task: _task(task, asked, *answers) for task in dict.fromkeys(task for task, _ in asked)}
    to_label = [
        {
            "task": row[0],
            "input": row[1],
            "target": "",
            "first": answers[0][row].text,
            "second": answers[1][row].text,
            "first_score": round(float(answers[0][row].score), 6),
            "second_score": round(float(answers[1][row].score), 6),
            "requests": times,
        }
        for row, times in asked.most_common()
        if answers[0][row].text != answers[1][row].text
    ]
    return Replay(tasks, to_label, left_out)


def _task(
    task: str, asked: Counter[Row], first: Mapping[Row, Prediction], second: Mapping[Row, Prediction]
) -> TaskReplay:
    rows = [row for row in asked if row[0] == task]
    requests = sum(asked[row] for row in rows)
    changes: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if first[row].text != second[row].text:
            changes[first[row].text, second[row].text] += asked[row]
    one, other = (sum(float(side[row].score) * asked[row] for row in rows) / requests for side in (first, second))
    return TaskReplay(
        requests,
        len(rows),
        sum(first[row].text != second[row].text for row in rows),
        changes.total(),
        one,
        other,
        [Change(first=a, second=b, requests=count) for (a, b), count in changes.most_common(CHANGES)],
    )


def _read(log: Path, domain: str) -> tuple[Counter[Row], Counter[str]]:
    """Rows of `domain` with how often they were asked, and what else there was. Raises DataError."""
    files = sorted(log.glob("*.jsonl")) if log.is_dir() else [log]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{log} is no request log: name the folder that `alter endpoint --log` wrote, or a file of it")
    asked: Counter[Row] = Counter()
    left_out: Counter[str] = Counter()
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                try:
                    row = orjson.loads(line)
                    key = row["task"], row["input"]
                    if not all(isinstance(part, str) for part in key):
                        raise TypeError
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    left_out["no request, or cut off"] += 1
                    continue
                if row.get("domain") == domain:
                    asked[key] += 1
                else:
                    left_out["of another domain"] += 1
    return asked, left_out


def print_replay(found: Replay, first: str, second: str) -> None:
    """A replay for people."""
    out = plain_console()
    table = Table("task", "requests", "rows", "differ", "of requests", f"score {first}", f"score {second}", "commonest")
    for name, task in found.tasks.items():
        share = f"{task.differing_requests / task.requests:.1%}"
        commonest = "; ".join(
            f"{one['first'][:24]} -> {one['second'][:24]} ({one['requests']})" for one in task.changes[:2]
        )
        cells = [str(task.requests), str(task.rows), str(task.differing), share]
        table.add_row(name, *cells, number(task.first_score), number(task.second_score), commonest)
    out.print(table)
    for why, count in found.left_out.items():
        out.print(f"left out: {counted(count, 'row')}, {why}")
