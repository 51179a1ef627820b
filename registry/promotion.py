"""The promotion rule: does a candidate take the champion's place? Pure, and nothing but numpy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np

RESAMPLES = 2000
Scores = Mapping[str, Mapping[str, float]]
"""task -> row id -> score of that row, in 0..1, higher is better."""


class Aggregate(TypedDict):
    """A task's score on both sides where it is no mean over rows."""

    metric: str
    candidate: float
    champion: float


@dataclass(frozen=True)
class Decision:
    """What the rule says, why, and the numbers behind it."""

    promote: bool
    reason: str
    numbers: Mapping[str, object] = field(default_factory=dict)
    """As JSON: those of the macro score and of each task, with their intervals, what is new and what is gone."""


class Compared(TypedDict):
    """A task over the rows that both scored."""

    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    rows: int


class _Pair(NamedTuple):
    rows: np.ndarray[Any, Any]
    """Differences over the rows that both scored, in row order."""
    candidate: float
    champion: float


def decide(
    candidate: Scores,
    champion: Scores | None,
    max_task_drop: float,
    confidence: float = 0.95,
    seed: int = 0,
    aggregates: Mapping[str, Aggregate] | None = None,
) -> Decision:
    """Compare on the candidate's own test rows; `champion` holds the champion's scores on the same rows.

    A task that both have is compared over the rows that both scored; its score is the mean over those rows, and the
    macro score is the mean over those tasks. Rows are resampled with replacement within each task, the same rows for
    both sides (paired bootstrap, Efron and Tibshirani 1993, ch. 14), which gives an interval of the macro difference,
    candidate minus champion. The candidate is promoted when both hold:

    1. The macro score does not fall: the upper end of that interval, at `confidence`, is not below zero. So equal
       scores, and falls within the noise of the test rows, pass; a fall that the rows do show does not.
    2. No task's observed score falls by more than `max_task_drop`. This one takes no interval: it bounds what users
       of one task can lose, however few its test rows are. Of a task in `aggregates`, whose score is no mean over
       rows (macro_f1), it looks at that score: {"metric", "candidate", "champion"}.

    No champion: promoted. A task that only the candidate has is reported and not compared. A task that only the
    champion has stands in the reason and does not hinder: removing it was a decision of the spec. A candidate score
    that is not a number is never promoted; a champion row that is not a number is left out on both sides. No shared
    task or row at all: not promoted, because nothing was shown. Raises ValueError for arguments out of range.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must lie between 0.5 and 1, got {confidence}")
    if not 0 <= max_task_drop <= 1:
        raise ValueError(f"max_task_drop must lie in 0..1, got {max_task_drop}")
    broken = sorted(task for task, rows in candidate.items() if not all(map(math.isfinite, rows.values())))
    empty = sorted(task for task, rows in candidate.items() if not rows)
    if broken or empty or not candidate:
        what = [f"{', '.join(broken)}: some of the candidate's scores are not numbers"] if broken else []
        what += [f"{', '.join(empty)}: the candidate has no scored rows"] if empty else []
        return Decision(False, "; ".join(what) or "the candidate has no scores", {"broken": broken, "empty": empty})
    own = {task: float(np.mean(list(rows.values()))) for task, rows in candidate.items()}
    if champion is None:
        return Decision(True, "there is no champion yet", {"macro": _mean(own), "tasks": own})
    added, removed = sorted(set(candidate) - set(champion)), sorted(set(champion) - set(candidate))
    pairs = _pairs(candidate, champion)
    if not pairs:
        return Decision(
            False,
            "champion and candidate share no task with scored test rows, so nothing shows that the candidate is as "
            "good",
            {"added": added, "removed": removed},
        )
    tasks, (low, high) = _compared(pairs, confidence, np.random.default_rng(seed))
    macro = float(np.mean([part["difference"] for part in tasks.values()]))
    # Means of equal scores may differ in the last bit; that is neither a fall nor a rise.
    whole = {task: part for task, part in (aggregates or {}).items() if task in tasks}
    falls = {task: -part["difference"] for task, part in tasks.items()}
    falls |= {task: part["champion"] - part["candidate"] for task, part in whole.items()}
    fallen = {task: fall for task, fall in falls.items() if fall > max_task_drop + 1e-12}
    macro_falls = high < -1e-12
    numbers = {
        "macro": {
            "candidate": _mean({task: part["candidate"] for task, part in tasks.items()}),
            "champion": _mean({task: part["champion"] for task, part in tasks.items()}),
            "difference": macro,
            "low": low,
            "high": high,
            "confidence": confidence,
        },
        "tasks": tasks,
        "aggregates": {task: dict(part) for task, part in whole.items()},
        "max_task_drop": max_task_drop,
        "added": added,
        "removed": removed,
    }
    measured = (
        f"{macro:+.3f} (interval {low:+.3f} to {high:+.3f} at {confidence:.0%}) over {counted(len(tasks), 'task')}"
    )
    against = [f"the macro score falls: {measured}"] if macro_falls else []
    for task, drop in sorted(fallen.items(), key=lambda item: -item[1]):
        part = tasks[task]
        spread = f"interval {part['low']:+.3f} to {part['high']:+.3f} over {counted(part['rows'], 'row')}"
        how = f"by its {whole[task]['metric']}" if task in whole else spread
        against.append(f"{task} falls by {drop:.3f} ({how}), more than the {max_task_drop:g} that the spec allows")
    said = "; ".join(against) or f"macro score {measured}, and no task falls by more than {max_task_drop:g}"
    return Decision(not against, said + _notes(whole, added, removed), numbers)


def _notes(whole: Mapping[str, Aggregate], added: Sequence[str], removed: Sequence[str]) -> str:
    """What a reader should know of the tasks that were compared, in brackets; empty where that is nothing."""
    notes = [f"counted there by rows, not by {part['metric']}: {task}" for task, part in sorted(whole.items())]
    notes += [f"new: {', '.join(added)}"] if added else []
    notes += [f"no longer there: {', '.join(removed)}"] if removed else []
    return f" ({'; '.join(notes)})" if notes else ""


def _pairs(candidate: Scores, champion: Scores) -> dict[str, _Pair]:
    """Of the shared tasks."""
    pairs = {}
    for task in sorted(set(candidate) & set(champion)):
        ours, theirs = candidate[task], champion[task]
        shared = sorted(row for row in ours if row in theirs and math.isfinite(theirs[row]))
        if shared:
            a, b = (np.array([side[row] for row in shared], dtype=float) for side in (ours, theirs))
            pairs[task] = _Pair(a - b, float(a.mean()), float(b.mean()))
    return pairs


def _compared(
    pairs: Mapping[str, _Pair], confidence: float, rng: np.random.Generator
) -> tuple[dict[str, Compared], tuple[float, float]]:
    """Each task with the interval of its difference, and that of the macro difference."""
    ends = [(1 - confidence) / 2, 1 - (1 - confidence) / 2]
    resampled = np.stack([_bootstrap_means(pair.rows, rng) for pair in pairs.values()])  # task, resample
    tasks: dict[str, Compared] = {}
    for (task, pair), means in zip(pairs.items(), resampled, strict=True):
        low, high = np.quantile(means, ends)
        tasks[task] = {
            "candidate": pair.candidate,
            "champion": pair.champion,
            "difference": float(pair.rows.mean()),
            "low": float(low),
            "high": float(high),
            "rows": len(pair.rows),
        }
    low, high = np.quantile(resampled.mean(axis=0), ends)
    return tasks, (float(low), float(high))


def _bootstrap_means(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Means of RESAMPLES resamples of rows (row,) -> (resample,), a block at a time to bound memory."""
    block = max(1, 4_000_000 // len(rows))
    parts = []
    for begin in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - begin)
        parts.append(rows[rng.integers(0, len(rows), (count, len(rows)))].mean(axis=1))
    return np.concatenate(parts)


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def counted(number: int, noun: str) -> str:
    """Such as "1 row" or "20 rows"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
