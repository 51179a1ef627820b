"""Held-out rows whose label is probably wrong: the model, which did not learn from them, finds it unlikely.

The rule is that of alter_core.quality.doubtful, which looks at training rows before there is a model. A model is asked
for its answer and not for every label, so the probability that is left is shared evenly by the other labels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alter_core.evaluation.rows import Row
from alter_core.evaluation.scorecard import Doubted
from alter_core.inference.prediction import Prediction
from alter_core.quality.doubtful import DoubtfulRow, unlikely

if TYPE_CHECKING:
    from alter_core.data.dataset import TaskDataset

FEWEST_ROWS = 30
"""Of fewer, how sure the model usually is of a label is not known."""
MOST_NAMED = 50
"""Rows of a task that are named, the least likely first."""


def doubted(dataset: "TaskDataset", task: str, rows: Sequence[Row], answers: Sequence[Prediction]) -> Doubted:
    """Of a label task's `rows`, with file and line, of any split but the training rows.

    answers: to them, at the task's temperature.
    """
    labels = sorted({row["target"] for row in rows} | {answer.text for answer in answers})
    if len(rows) < FEWEST_ROWS or len(labels) < 2:
        return Doubted(0, 0, ())
    if all(answer.text == row["target"] for row, answer in zip(rows, answers, strict=True)):
        return Doubted(len(rows), 0, ())  # without seconds of imports
    shares = [
        [answer.score if label == answer.text else (1 - answer.score) / (len(labels) - 1) for label in labels]
        for answer in answers
    ]
    found = unlikely([labels.index(row["target"]) for row in rows], shares)
    named = [
        DoubtfulRow(
            dataset.place(task, rows[number]["file"], rows[number]["line"]),
            rows[number]["input"],
            rows[number]["target"],
            labels[likely],
            probability,
        )
        for number, likely, probability in found[:MOST_NAMED]
    ]
    return Doubted(len(rows), len(found), tuple(named))
