"""What a user would take instead of a model: the majority class, a bag of words, a copy of the input. Costs seconds."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import regex

from alter_core.evaluation.metrics import row_scores
from alter_core.evaluation.rows import rows_of
from alter_core.inference.prediction import Prediction
from alter_core.quality.bag_of_words import WORD, bag_of_words
from alter_core.spec import DomainSpec
from alter_core.spec.task import TaskSpec
from alter_core.text import UNSPACED

if TYPE_CHECKING:
    from alter_core.data.dataset import TaskDataset

MOST_ROWS = 20_000
"""That a bag of words learns from, chosen by hash: more would take minutes where there are many labels."""
CHOICE_ROWS = 200
"""That tell which copy is better."""
_SENTENCE = regex.compile(rf".+?(?:\p{{STerm}}+(?=[\s{UNSPACED}]|$)|$)", regex.MULTILINE)


def majority_targets(targets: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """For each label task, the commonest of its training `targets`.

    Of several equally common ones, the first by name, so that the result does not hang on the rows' order.
    """
    counts = {name: Counter(held) for name, held in targets.items()}
    return {name: min(held, key=lambda target: (-held[target], target)) for name, held in counts.items() if held}


def first_sentence(text: str) -> str:
    """Up to the first mark that ends a sentence, or the first line's end."""
    found = _SENTENCE.search(text.strip())
    return found.group() if found else text


COPIES: Mapping[str, Callable[[str], str]] = {
    "a copy of the first sentence": first_sentence,
    "a copy of the input": str,
}


@dataclass(frozen=True)
class _Way:
    """How one task's inputs are answered."""

    name: str
    answer: Callable[[Sequence[str]], list[tuple[str, float]]]
    """Inputs -> answers with probabilities; 1 where there is none."""


class BagOfWordsOrCopy:
    """Answers as a `Predictor` does, learnt from a data set's rows in seconds.

    Label tasks: `bag_of_words`.
    Others: the input's first sentence or all of it, whichever scores better on validation rows (training rows where
    there are none). Inputs are read whole, also where a model's would be cut.
    """

    def __init__(self, dataset: "TaskDataset", spec: DomainSpec) -> None:
        self.spec = spec
        self._ways = {task.name: _way(dataset, task) for task in spec.tasks}

    @property
    def by(self) -> dict[str, str]:
        """Task -> what answers it."""
        return {task: way.name for task, way in self._ways.items()}

    def predict(
        self, tasks: Sequence[str], inputs: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Prediction]:
        """An answer to each input, by its task."""
        answers: dict[int, Prediction] = {}
        for task in dict.fromkeys(tasks):
            places = [place for place, name in enumerate(tasks) if name == task]
            found = self._ways[task].answer([inputs[place] for place in places])
            answers |= {place: Prediction(*one, truncated=False) for place, one in zip(places, found, strict=True)}
            if on_progress:
                on_progress(len(answers), len(tasks))
        return [answers[place] for place in range(len(tasks))]


def _way(dataset: "TaskDataset", task: TaskSpec) -> _Way:
    if task.task_type.labelled:
        rows, count = rows_of(dataset, task.name, "train", MOST_ROWS), dataset.counts("train")[task.name]
        of = f" ({len(rows):,} of {count:,} rows)" if len(rows) < count else ""
        return _Way(f"a bag of words{of}", _bag_of_words(rows["input"], rows["target"]))
    rows = rows_of(dataset, task.name, "validation", CHOICE_ROWS) or rows_of(dataset, task.name, "train", CHOICE_ROWS)
    inputs, targets = list(rows["input"]), list(rows["target"])
    scores = {
        name: row_scores(task.effective_metrics[0], [copy(text) for text in inputs], targets).mean()
        for name, copy in COPIES.items()
    }
    best = max(scores, key=scores.__getitem__)
    return _Way(best, lambda asked: [(COPIES[best](text), 1.0) for text in asked])


def _bag_of_words(inputs: Sequence[str], targets: Sequence[str]) -> Callable[[Sequence[str]], list[tuple[str, float]]]:
    targets = list(targets)
    if len(set(targets)) < 2 or not any(map(WORD.search, inputs)):  # nothing to tell apart, or to tell it by
        common = majority_targets({"": targets}).get("", "")
        return lambda asked: [(common, 1.0)] * len(asked)
    model = bag_of_words().fit(list(inputs), targets)

    def answer(asked: Sequence[str]) -> list[tuple[str, float]]:
        shares = model.predict_proba(list(asked))
        best = np.argmax(shares, axis=1)
        return [(str(model.classes_[k]), float(of[k])) for k, of in zip(best, shares, strict=True)]

    return answer
