"""Scorecard: what one subject (a bundle, the plain backbone, a baseline) scored on held-out rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from alter_core.errors import DataError
from alter_core.evaluation.metrics import Interval, interval, measure, resamples, row_scores
from alter_core.inference.prediction import Prediction
from alter_core.quality.doubtful import DoubtfulRow
from alter_core.spec import DomainSpec
from alter_core.whole import Result

SCORECARD_FILE = "scorecard.json"
SAMPLES_PER_TASK = 5
CONFUSION_LABELS = 30
"""Label tasks with more labels keep no confusion matrix: nobody could read it."""
Row = Mapping[str, object]
"""Of a TaskDataset: task, id, input, target."""


@dataclass(frozen=True)
class Confusion:
    """Which label was answered where which was right."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Targets down and predictions across."""


@dataclass(frozen=True)
class Reliability:
    """How far scores are from the share of answers that are right, over rows in bins of equal width."""

    error: float
    """Expected calibration error: the mean over rows of how far the two are apart in the row's bin."""
    bins: tuple[tuple[float, float, int], ...]
    """Mean score, share that is right, and rows, of each bin that holds any."""


@dataclass(frozen=True)
class Bound:
    """The score below which a task's answers abstain, fitted on validation rows for a share of right answers."""

    below: float
    """Above every score where no bound is shown to be enough."""
    precision: float
    """The share that is asked for."""
    kept: int
    """Validation rows that do not abstain."""
    right: int
    """Of them, those that are answered right."""
    reached: float | None
    """Share of the test rows that do not abstain that is right; None where all abstain."""


@dataclass(frozen=True)
class Calibration:
    """What a label task's temperature is and does."""

    temperature: float | None
    reason: str
    """Why there is none; empty where there is one."""
    validation_rows: int
    """That it was fitted on."""
    before: Reliability
    """Of the test rows' scores at temperature 1."""
    after: Reliability
    """Of those at this one."""
    bound: Bound | None = None
    """Where the task asks for a precision."""


@dataclass(frozen=True)
class Abstention:
    """What the bound below which the task abstains does to the test rows."""

    below: float
    share: float
    """Of rows that abstain."""
    rest: float | None
    """Mean score of the other rows, as `row_scores` has them; None where none is left."""


@dataclass(frozen=True)
class Doubted:
    """The held-out rows of a label task whose label the model finds unlikely."""

    looked_at: int
    """Validation and test rows; 0 where there are too few."""
    found: int
    rows: tuple[DoubtfulRow, ...]
    """The least likely of them, that first."""


@dataclass(frozen=True)
class Sample:
    """A row and what was answered to it."""

    task: str
    id: str
    input: str
    target: str
    prediction: str
    score: float
    """The prediction's probability."""
    truncated: bool

    @classmethod
    def of(cls, row: Row, answer: Prediction) -> "Sample":
        return cls(
            str(row["task"]),
            str(row["id"]),
            str(row["input"]),
            str(row["target"]),
            answer.text,
            answer.score,
            answer.truncated,
        )


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
    confusion: Confusion | None = None
    """Label tasks with few labels only."""
    by: str | None = None
    """What answered where it was no model, such as "a bag of words"."""
    calibration: Calibration | None = None
    """Label tasks of the model that is registered only."""
    abstention: Abstention | None = None
    doubted: Doubted | None = None
    """As calibration."""

    @property
    def score(self) -> float:
        return self.metrics[self.metric].value


@dataclass(frozen=True)
class Scorecard(Result):
    """Per-task and macro results, JSON-able. The macro score is the plain mean of the tasks' scores."""

    tasks: Mapping[str, TaskScore]
    macro: Interval
    row_scores: Mapping[str, Mapping[str, float]]
    """Task -> row id -> the row's score, by the task's first metric (macro_f1 has none: accuracy there)."""
    samples: tuple[Sample, ...] = ()
    """A few rows of each task with their answers."""


def score(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    spec: DomainSpec,
    majority: Mapping[str, str] | None = None,
    seed: int = 0,
    by: Mapping[str, str] | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
    doubts: Mapping[str, Doubted] | None = None,
) -> Scorecard:
    """Score `predictions` of `rows` (mappings with task, id, input, target), which go together one by one.

    majority: label task -> its commonest training target. by: task -> what answered, where it was no
    model. calibrations, doubts: task -> that of `predictions`. Intervals come from resampling rows within each task.
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
    samples: list[Sample] = []
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
        each = row_scores(first, answers, targets)
        common = (majority or {}).get(task.name)
        calibration = (calibrations or {}).get(task.name)
        below = calibration.bound.below if calibration and calibration.bound else task.abstain_below
        tasks[task.name] = TaskScore(
            metric=first,
            metrics=metrics,
            rows=len(places),
            truncated=sum(predictions[i].truncated for i in places),
            majority=None if common is None else measure(first, [common] * len(targets), targets, picks[:1])[0],
            confusion=_confusion(task.labels, answers, targets),
            by=(by or {}).get(task.name),
            calibration=calibration,
            abstention=_abstention(below, np.array([predictions[i].score for i in places]), each),
            doubted=(doubts or {}).get(task.name),
        )
        by_row[task.name] = {str(rows[i]["id"]): float(s) for i, s in zip(places, each, strict=True)}
        samples += [Sample.of(rows[i], predictions[i]) for i in places[:SAMPLES_PER_TASK]]
    value = float(np.mean([value for value, _ in macro]))
    return Scorecard(tasks, interval(value, np.mean([spread for _, spread in macro], 0)), by_row, tuple(samples))


def _abstention(below: float | None, scores: Float[ndarray, " row"], each: Float[ndarray, " row"]) -> Abstention | None:
    if below is None:
        return None
    rest = each[scores >= below]
    return Abstention(below, 1 - len(rest) / len(each), float(rest.mean()) if len(rest) else None)


def _confusion(labels: Sequence[str] | None, answers: Sequence[str], targets: Sequence[str]) -> Confusion | None:
    if not labels or len(labels) > CONFUSION_LABELS:
        return None
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for answer, target in zip(answers, targets, strict=True):
        if answer in place and target in place:
            counts[place[target], place[answer]] += 1
    return Confusion(tuple(labels), tuple(tuple(row) for row in counts.tolist()))
