"""Scorecards as a version's facts hold them, and the one table of whose scores are shown beside the model's own.

They are JSON that another version of the factory may have written: what a reader may miss is not required.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict


class Value(TypedDict):
    """A score with its interval."""

    value: float
    low: float
    high: float


class Confusion(TypedDict):
    """Targets down, predictions across."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]


class Reliability(TypedDict):
    """How far scores are from the share of answers that are right."""

    error: float
    """Expected calibration error."""
    bins: Sequence[Sequence[float]]
    """Mean score, share that is right, and rows, of each bin."""


class Bound(TypedDict):
    """A bound below which answers abstain, fitted on validation rows for a share of right answers."""

    below: float
    precision: float
    """The share that is asked for."""
    kept: int
    """Validation rows that do not abstain; 0 where no bound is shown to be enough, and all do."""
    right: int
    reached: float | None
    """Share of the test rows that do not abstain that is right."""


class Calibration(TypedDict):
    """A label task's temperature, and its test rows' scores before and after it."""

    temperature: float | None
    reason: str
    """Why there is none."""
    validation_rows: int
    before: Reliability
    after: Reliability
    bound: NotRequired[Bound | None]


class Abstention(TypedDict):
    """What the bound below which a task abstains does to the test rows."""

    below: float
    share: float
    rest: float | None
    """Score of the rows that do not abstain."""


class DoubtfulRow(TypedDict):
    """A held-out row whose label is probably wrong."""

    place: str
    """Where it came from."""
    input: str
    label: str
    likely: str
    """The label that it would get."""
    probability: float
    """Of `label`."""


class Doubted(TypedDict):
    """The held-out rows of a label task whose label the model finds unlikely."""

    looked_at: int
    """Validation and test rows; 0 where there are too few."""
    found: int
    rows: Sequence[DoubtfulRow]
    """The least likely of them, that first."""


class TaskScore(TypedDict):
    """One task's scores."""

    metric: str
    """The task's score: the first of its metrics."""
    metrics: Mapping[str, Value]
    rows: int
    truncated: NotRequired[int]
    majority: NotRequired[float | None]
    """Score of always giving the commonest training target; label tasks only."""
    confusion: NotRequired[Confusion | None]
    by: NotRequired[str | None]
    """What answered where it was no model, such as "a bag of words"."""
    calibration: NotRequired[Calibration | None]
    abstention: NotRequired[Abstention | None]
    doubted: NotRequired[Doubted | None]


class Sample(TypedDict):
    """A test row and what was answered to it."""

    task: str
    id: NotRequired[str]
    input: str
    target: NotRequired[str]
    prediction: str
    score: NotRequired[float | None]
    truncated: NotRequired[bool]


class Scorecard(TypedDict):
    """What one subject scored on the test rows."""

    tasks: Mapping[str, TaskScore]
    macro: Value
    row_scores: NotRequired[Mapping[str, Mapping[str, float]]]
    """Task -> row id -> score."""
    samples: NotRequired[Sequence[Sample]]


Scorecards = Mapping[str, Scorecard]
"""Subject -> scorecard. This model's own is that of the stage that was trained last."""
FEW_ROWS = 30
"""Below, resampled rows do not show how far a score may be off: 5 of 5 right would be 1.000 to 1.000."""


@dataclass(frozen=True)
class Subject:
    """One whose scores are shown."""

    key: str
    label: str
    colour: str
    """In figures; of Okabe and Ito's palette, told apart with every kind of colour vision."""


SUBJECTS = (
    Subject("majority", "majority", "#c9ccd1"),
    Subject("zero_shot", "zero-shot", "#8a8f98"),
    Subject("bag_of_words", "bag of words or copy", "#cc79a7"),
    Subject("stage_one", "stage one", "#56b4e9"),
    Subject("champion", "champion then", "#e69f00"),
    Subject("stage_two", "stage two", "#0072b2"),
    Subject("add_task", "task added", "#0072b2"),
    Subject("refresh", "refreshed", "#0072b2"),
)


def own_subject(scorecards: Scorecards) -> str:
    """Which of the scorecards is the model's own."""
    return next(name for name in ("add_task", "refresh", "stage_two", "stage_one") if name in scorecards)


def own_scorecard(scorecards: Scorecards) -> Scorecard:
    """The model's own."""
    return scorecards[own_subject(scorecards)]


def shown_subjects(scorecards: Scorecards) -> list[Subject]:
    """In their order, the model's own last."""
    own = own_subject(scorecards)
    known = {*scorecards, *(["majority"] if _has_majority(scorecards[own]) else [])}
    return [one for one in SUBJECTS if one.key in known and one.key != own] + [
        one for one in SUBJECTS if one.key == own
    ]


def score_of(scorecards: Scorecards, subject: str, task: str) -> float | None:
    """A subject's score of a task, by the metric of the model's own; None where it has none."""
    mine = own_scorecard(scorecards)["tasks"][task]
    if subject == "majority":
        return mine.get("majority")
    theirs = scorecards[subject]["tasks"].get(task)
    found = theirs and theirs["metrics"].get(mine["metric"])
    return found["value"] if found else None


def macro_of(scorecards: Scorecards, subject: str) -> float | None:
    """A subject's macro score; None over other tasks than the model's own, as the two would not be comparable."""
    if subject not in scorecards:
        return None
    card, own = scorecards[subject], own_scorecard(scorecards)
    return float(card["macro"]["value"]) if card["tasks"].keys() == own["tasks"].keys() else None


def champion_lines(scorecards: Scorecards) -> list[str]:
    """The model's score of each task and its macro score, one line each, with the champion's where that was scored."""
    own, known = own_scorecard(scorecards), "champion" in scorecards
    lines = []
    for task, score in own["tasks"].items():
        before = number(score_of(scorecards, "champion", task) if known else None)
        value = number(score["metrics"][score["metric"]]["value"])
        lines.append(f"{task} ({score['metric']}): {value}" + (before and f", the champion {before}"))
    before = number(macro_of(scorecards, "champion"))
    return [*lines, f"macro: {number(own['macro']['value'])}" + (before and f", the champion {before}")]


def against_bag_of_words(scorecards: Scorecards) -> str:
    """On which tasks the model is ahead of what a user would take instead of one; empty where that was not scored."""
    if "bag_of_words" not in scorecards:
        return ""
    names = list(own_scorecard(scorecards)["tasks"])
    level: list[str] = []
    behind: list[str] = []
    for name in names:
        ours, theirs = (score_of(scorecards, key, name) for key in (own_subject(scorecards), "bag_of_words"))
        if theirs is not None and ours is not None and theirs >= ours:
            (level if theirs == ours else behind).append(name)
    ahead = len(names) - len(level) - len(behind)
    lost = [f"{word} on {', '.join(found)}" for word, found in (("level", level), ("behind", behind)) if found]
    return "; ".join([f"Ahead of a bag of words or copy on {ahead} of {len(names)} tasks", *lost]) + "."


def number(value: float | None) -> str:
    """A score for people; empty where there is none."""
    return "" if value is None else f"{value:.3f}"


def span(value: Value) -> str:
    """A score's interval for people."""
    return f"{value['low']:.3f} to {value['high']:.3f}"


def known_limits(scorecards: Scorecards) -> list[str]:
    """What this model's scorecard says against it, one sentence each.

    A task is named when its score, with its interval, is not wholly above that of the backbone alone, of always giving
    the commonest label, or of a bag of words or a copy: the promotion rule compares with the champion, which may be as
    bad, and a task that the champion does not have with nothing.
    """
    sentences = []
    baselines = {"zero_shot": "the backbone alone", "majority": "always giving the commonest label"}
    there = [one.key for one in shown_subjects(scorecards) if one.key in baselines]
    for name, task in own_scorecard(scorecards)["tasks"].items():
        score = task["metrics"][task["metric"]]
        others = {baselines[key]: score_of(scorecards, key, name) for key in baselines if key in there}
        measured = f"{task['metric']} {score['value']:.3f} ({span(score)})."
        instead = scorecards["bag_of_words"]["tasks"].get(name) if "bag_of_words" in scorecards else None
        if instead and (by := instead.get("by")) and (value := score_of(scorecards, "bag_of_words", name)) is not None:
            if value > score["value"]:
                sentences.append(f"{by[0].upper()}{by[1:]} is ahead on {name} ({value:.3f}): {measured}")
            else:
                others[by] = value
        if (fitted := task.get("calibration")) and (bound := fitted.get("bound")) and not bound["kept"]:
            sentences.append(
                f"{name} abstains always: {fitted['validation_rows']:,} validation rows show no bound that leaves "
                f"{bound['precision']:.1%} of answers right."
            )
        if task["rows"] < FEW_ROWS:
            sentences.append(f"{name} was scored on {task['rows']} test rows: its interval is too narrow.")
        if unbeaten := [
            f"{other} ({value:.3f})" for other, value in others.items() if value is not None and score["low"] <= value
        ]:
            sentences.append(f"{name} is not shown to do better than {' or '.join(unbeaten)}: {measured}")
    return sentences


def doubted_rows(card: Scorecard) -> dict[str, Doubted]:
    """Label task -> its held-out rows whose label the model finds unlikely."""
    every = {name: task.get("doubted") for name, task in card["tasks"].items()}
    return {name: found for name, found in every.items() if found}


def _has_majority(card: Scorecard) -> bool:
    return any(task.get("majority") is not None for task in card["tasks"].values())
