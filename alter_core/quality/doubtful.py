"""Training rows whose label is probably wrong: a bag of words that did not learn from them finds it unlikely.

The rule is cleanlab's confident learning (Northcutt et al., 2021, arXiv 1911.00068), on cross-fitted probabilities.
Rows are shown and never dropped: a rare wording looks the same to it.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from alter_core.quality.bag_of_words import WORD, bag_of_words

if TYPE_CHECKING:
    from alter_core.data.dataset import TaskDataset

LEAST_ROWS = 500
"""With fewer, what a bag of words learns says little of a single row."""
MOST_ROWS = 5_000
"""That are looked at, the first in order of hash: more take minutes where there are many labels."""
FOLDS = 5


@dataclass(frozen=True)
class DoubtfulRow:
    """A row to look at."""

    place: str
    input: str
    label: str
    likely: str
    """The label that it would get."""
    probability: float
    """Of `label`."""


@dataclass(frozen=True)
class Doubtful:
    """What was found in one label task."""

    looked_at: int
    """Training rows; 0 where there are too few."""
    rows: tuple[DoubtfulRow, ...]
    """The least likely first."""


def doubtful_rows(dataset: "TaskDataset", task: str) -> Doubtful:
    """Of a label task. Rows of a label with fewer than FOLDS rows, which no fold can learn, are not looked at, and
    neither are those without a word."""
    table = dataset.placed_rows("train", task)
    table = table.select(range(min(len(table), MOST_ROWS)))
    targets: list[str] = list(table["target"])
    counts = Counter(targets)
    kept = [
        number
        for number, (target, text) in enumerate(zip(targets, table["input"], strict=True))
        if counts[target] >= FOLDS and WORD.search(text)
    ]
    labels = sorted({targets[number] for number in kept})
    if len(kept) < LEAST_ROWS or len(labels) < 2:
        return Doubtful(0, ())
    held = table.select(kept)
    inputs = list(held["input"])
    found = []
    given = [labels.index(targets[number]) for number in kept]
    for number, likely, probability in unlikely(given, _cross_fitted(inputs, given)):
        file, line = held[number]["file"], held[number]["line"]
        label = targets[kept[number]]
        found.append(DoubtfulRow(dataset.place(task, file, line), inputs[number], label, labels[likely], probability))
    return Doubtful(len(kept), tuple(found))


def unlikely(
    given: Sequence[int], shares: Sequence[Sequence[float]] | Float[ndarray, "row label"]
) -> list[tuple[int, int, float]]:
    """Number, likely label and probability of its own label, of each doubtful row; the least likely first.

    given: each row's label, as its number. shares: a probability for every label, by something that did not learn from
    the row. A label's only row is never among them.
    """
    from cleanlab.filter import find_label_issues  # seconds of imports that a small domain does without

    labels, told = np.array(given), np.array(shares)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")  # of an only row, as said above
        order = find_label_issues(labels, told, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [(int(n), int(np.argmax(told[n])), float(told[n, labels[n]])) for n in order]


def _cross_fitted(inputs: Sequence[str], given: Sequence[int]) -> Float[ndarray, "row label"]:
    """By a bag of words that learnt from the other folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict  # late as well

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    shares: Float[ndarray, "row label"] = cross_val_predict(
        bag_of_words(), list(inputs), list(given), cv=folds, method="predict_proba"
    )
    return shares
