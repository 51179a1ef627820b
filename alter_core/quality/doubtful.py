"""Training rows whose label is probably wrong: a bag of words that did not learn from them finds it unlikely.

The rule is cleanlab's confident learning (Northcutt et al., 2021, arXiv 1911.00068), on cross-fitted probabilities.
Rows are shown and never dropped: a rare wording looks the same to it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """The label that the bag of words would give it."""
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
    for number, likely, probability in _unlikely(inputs, [labels.index(targets[each]) for each in kept]):
        file, line = held[number]["file"], held[number]["line"]
        label = targets[kept[number]]
        found.append(DoubtfulRow(dataset.place(task, file, line), inputs[number], label, labels[likely], probability))
    return Doubtful(len(kept), tuple(found))


def _unlikely(inputs: Sequence[str], labels: Sequence[int]) -> list[tuple[int, int, float]]:
    """Number, likely label and probability of its own label, of each doubtful row; the least likely first."""
    import numpy as np
    from cleanlab.filter import find_label_issues  # seconds of imports that a small domain does without
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    given = np.array(labels)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    shares = cross_val_predict(bag_of_words(), list(inputs), given, cv=folds, method="predict_proba")
    order = find_label_issues(given, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [(int(n), int(np.argmax(shares[n])), float(shares[n, given[n]])) for n in order]
