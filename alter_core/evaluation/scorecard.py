"""Scorecard: what one subject (a bundle, the plain backbone, a baseline) scored on held-out rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alter_core.errors import DataError
from alter_core.evaluation.metrics import Interval, interval, measure, resamples, row_scores
from alter_core.inference.predict import Prediction
from alter_core.spec import DomainSpec
from alter_core.whole import write_json

SAMPLES_PER_TASK = 5
CONFUSION_LABELS = 30
"""Label tasks with more labels keep no confusion matrix: nobody could read it."""


@dataclass(frozen=True)
class TaskScore:
    """One task's results."""

    metric: str
    """The task's score: the first of its metrics."""
    metrics: Mapping[str, Interval]
    rows: int
    truncated: int
    """Rows whose input was cut."""
    majority: float | None = None
    """Score of always giving the commonest training target; label tasks only."""
    confusion: Mapping[str, Any] | None = None
    """{"labels": [...], "counts": [[...]]}, targets down and predictions across; label tasks with few labels only."""

    @property
    def score(self) -> float:
        return self.metrics[self.metric].value


@dataclass(frozen=True)
class Scorecard:
    """Per-task and macro results, JSON-able. The macro score is the plain mean of the tasks' scores."""

    tasks: Mapping[str, TaskScore]
    macro: Interval
    row_scores: Mapping[str, Mapping[str, float]]
    """Task -> row id -> the row's score, by the task's first metric (macro_f1 has none: accuracy there)."""
    samples: Sequence[Mapping[str, Any]] = field(default=())
    """A few rows of each task with their answers: task, id, input, target, prediction, score, truncated."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scorecard":
        """The scorecard that `to_json` gave."""
        tasks = {
            name: TaskScore(**{**task, "metrics": {m: Interval(**v) for m, v in task["metrics"].items()}})
            for name, task in value["tasks"].items()
        }
        return cls(tasks, Interval(**value["macro"]), value["row_scores"], value["samples"])

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> "Scorecard":
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))


def score(
    predictions: Sequence[Prediction],
    rows: Sequence[Mapping[str, Any]],
    spec: DomainSpec,
    majority: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Scorecard:
    """Score `predictions` of `rows` (mappings with task, id, input, target), which go together one by one.

    majority: label task -> its commonest training target. Intervals come from resampling rows within each task.
    Raises DataError when there are no rows, or a row's task is not in the spec.
    """
    if not rows:
        raise DataError("there are no rows to score: raise split > test in the spec, or give the tasks `test` sources")
    if foreign := {str(row["task"]) for row in rows} - set(spec.task_names):
        raise DataError(
            f"rows of tasks that {spec.name} does not have: {', '.join(sorted(foreign))}; ingest the domain again "
            "(`alter data`)"
        )
    tasks: dict[str, TaskScore] = {}
    by_row: dict[str, dict[str, float]] = {}
    samples: list[dict[str, Any]] = []
    macro = []
    for number, task in enumerate(spec.tasks):
        places = [i for i, row in enumerate(rows) if row["task"] == task.name]
        if not places:
            continue
        answers = [predictions[i].text for i in places]
        targets = [str(rows[i]["target"]) for i in places]
        picks = resamples(len(places), [seed, number])  # tasks are resampled independently
        metrics: dict[str, Interval] = {}
        for metric in task.effective_metrics:
            value, spread = measure(metric, answers, targets, picks)
            metrics[metric] = interval(value, spread)
            if metric == task.effective_metrics[0]:
                macro.append((value, spread))
        first = task.effective_metrics[0]
        common = (majority or {}).get(task.name)
        tasks[task.name] = TaskScore(
            metric=first,
            metrics=metrics,
            rows=len(places),
            truncated=sum(predictions[i].truncated for i in places),
            majority=None if common is None else measure(first, [common] * len(targets), targets, picks[:1])[0],
            confusion=_confusion(task.labels, answers, targets),
        )
        each = row_scores(first, answers, targets)
        by_row[task.name] = {str(rows[i]["id"]): float(s) for i, s in zip(places, each, strict=True)}
        samples += [sample(rows[i], predictions[i]) for i in places[:SAMPLES_PER_TASK]]
    value = float(np.mean([value for value, _ in macro]))
    return Scorecard(tasks, interval(value, np.mean([spread for _, spread in macro], 0)), by_row, tuple(samples))


def sample(row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
    """One of a scorecard's samples."""
    kept = {key: row[key] for key in ("task", "id", "input", "target")}
    return {
        **kept,
        "prediction": prediction.text,
        "score": prediction.score,
        "truncated": prediction.truncated,
    }


def _confusion(labels: Sequence[str] | None, answers: Sequence[str], targets: Sequence[str]) -> dict[str, Any] | None:
    if not labels or len(labels) > CONFUSION_LABELS:
        return None
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for answer, target in zip(answers, targets, strict=True):
        if answer in place and target in place:
            counts[place[target], place[answer]] += 1
    return {"labels": list(labels), "counts": counts.tolist()}
