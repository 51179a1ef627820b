"""Intervals of mean scores over seeds and rows: both kinds of luck are in them, and neither twice.

Seeds and rows are crossed: every seed answers the same rows. Resampling both counts what belongs to one seed on one row
three times over (Owen 2007, "The pigeonhole bootstrap"), which is most of the luck where seeds are few. So variance
components are estimated (Searle, Casella and McCulloch 1992, ch. 4), and a t quantile pays for the few seeds that tell
how much seeds differ, with degrees of freedom after Satterthwaite (1946). In simulation 92 to 98 of 100 intervals of a
difference hold the truth; of one arm's own with two seeds, whose luck is as large as that of rows, 85 at worst.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import stdtrit

from alter_core.evaluation.metrics import CONFIDENCE, Interval
from alter_core.evaluation.scorecard import Scorecard

Scores = Mapping[str, Float[ndarray, "seed row"]]
"""Row scores by task; the same seeds for every task."""
Variance = tuple[float, float]
"""A variance, and its degrees of freedom."""


def row_table(cards: Sequence[Scorecard]) -> dict[str, Float[ndarray, "seed row"]]:
    """Row scores of several scorecards of the same rows, by task; rows in the order of their ids."""
    return seed_table([card.row_scores for card in cards])


def seed_table(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Float[ndarray, "seed row"]]:
    """Task -> row id -> value of each seed as one table a task; rows in the order of their ids."""
    return {
        task: np.array([[of[task][row] for row in sorted(first)] for of in by_seed])
        for task, first in by_seed[0].items()
    }


def macro(scores: Scores) -> float:
    """Mean over tasks of the mean over seeds and rows."""
    return float(np.mean([table.mean() for table in scores.values()]))


def macro_interval(scores: Scores) -> Interval:
    """The macro score and its interval, within 0..1 as scores are."""
    found = _interval(macro(scores), [_of_rows(scores), _of_seeds(scores)])
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def paired_difference(ours: Scores, theirs: Scores) -> Interval:
    """Macro difference, ours less theirs, and its interval: rows are paired, seeds are each arm's own."""
    rows = {task: (ours[task].mean(0) - theirs[task].mean(0))[None] for task in ours}
    return _interval(macro(ours) - macro(theirs), [_of_rows(rows), _of_seeds(ours), _of_seeds(theirs)])


def paired_by_seed(ours: Scores, theirs: Scores) -> Interval:
    """Macro difference, ours less theirs, of the same seeds on the same rows. Arms of a seed see rows in one order, and
    many begin with the same stage one: that luck is in both, and leaves the difference."""
    found = {task: ours[task] - theirs[task] for task in ours}
    return _interval(macro(found), [_of_rows(found), _of_seeds(found)])


def _interval(value: float, parts: list[Variance]) -> Interval:
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(value, value, value)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts if part > 0)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * variance**0.5
    return Interval(value, value - half, value + half)


def _of_rows(scores: Scores) -> Variance:
    """Of the macro score, by the luck of which rows were drawn: rows differ, and differ from seed to seed."""
    means = [table.mean(0) for table in scores.values()]
    parts = [(rows.var(ddof=1) / len(rows), len(rows) - 1) for rows in means if len(rows) > 1]
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / degrees for part, degrees in parts) if total > 0 else np.inf
    return float(total) / len(means) ** 2, float(freedom)


def _of_seeds(scores: Scores) -> Variance:
    """Of the macro score, by the luck of seeds beyond what `_of_rows` holds of it; none where there is one seed."""
    tables = list(scores.values())
    seeds = len(tables[0])
    if seeds < 2:
        return 0.0, np.inf
    means = np.mean([table.mean(1) for table in tables], axis=0)
    on_rows = 0.0
    for table in tables:
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        degrees = (seeds - 1) * max(table.shape[1] - 1, 1)
        on_rows += float((rest**2).sum()) / degrees / (seeds * table.shape[1])
    return max(0.0, float(means.var(ddof=1)) / seeds - on_rows / len(tables) ** 2), seeds - 1.0
