"""Metrics of answers against targets: all lie in 0..1, higher is better. Per row where that exists, and in aggregate.

accuracy     the answer is the target, to the letter (labels)
macro_f1     mean over classes of F1; no score per row
exact_match  equal after SQuAD's normalisation: case, punctuation, articles and white space aside
token_f1     SQuAD's F1 over the bag of normalised tokens (Rajpurkar et al., arXiv 1606.05250); of scripts without
             spaces, a character is a token
rouge_l      F1 of the longest common subsequence of words (Lin 2004), by the package rouge_score
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import regex
from jaxtyping import Float, Int
from numpy import ndarray

from alter_core.quality.bag_of_words import WORD
from alter_core.spec.task_types import MetricName
from alter_core.text import UNSPACED, normalise

RESAMPLES = 1000
CONFIDENCE = 0.95

_CHARACTER = regex.compile(rf"([{UNSPACED}]\p{{M}}*)")


@dataclass(frozen=True)
class Interval:
    """A value and its interval of 95 %."""

    value: float
    low: float
    high: float


def of_rows(metric: MetricName) -> MetricName:
    """The metric that stands for `metric` where models are compared row by row: macro_f1 has no score per row."""
    return "accuracy" if metric == "macro_f1" else metric


def row_scores(metric: MetricName, predictions: Sequence[str], targets: Sequence[str]) -> Float[ndarray, " row"]:
    """Score of each row, by `of_rows(metric)`."""
    score = _ROW_SCORES[of_rows(metric)]
    return np.array([score(p, t) for p, t in zip(predictions, targets, strict=True)], dtype=float)


def measure(
    metric: MetricName,
    predictions: Sequence[str],
    targets: Sequence[str],
    picks: Int[ndarray, "resample row"],
) -> tuple[float, Float[ndarray, " resample"]]:
    """Value over all rows, and over each resample of `picks`.

    A resample lacks some classes and repeats some errors, so that its macro F1 tends to lie below the value; samples of
    it are mirrored at the value, which makes the percentile interval the basic one (Davison and Hinkley 1997, ch. 5.2).
    """
    if metric == "macro_f1":
        predicted, wanted, classes = _numbered(predictions, targets)
        value = _macro_f1(predicted[None], wanted[None], classes)[0]
        return float(value), np.clip(2 * value - _macro_f1(predicted[picks], wanted[picks], classes), 0.0, 1.0)
    scores = row_scores(metric, predictions, targets)
    return float(scores.mean()), scores[picks].mean(1)


def resamples(rows: int, seed: int | Sequence[int], count: int = RESAMPLES) -> Int[ndarray, "resample row"]:
    """Row numbers of each bootstrap resample; the same seed gives the same ones."""
    return np.random.default_rng(seed).integers(0, rows, (count, rows))


def interval(value: float, samples: Float[ndarray, " resample"]) -> Interval:
    """Percentile interval of bootstrap `samples` around `value`."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def _accuracy(prediction: str, target: str) -> float:
    return float(prediction == target)


def _exact_match(prediction: str, target: str) -> float:
    return float(normalise(prediction) == normalise(target))


def _token_f1(prediction: str, target: str) -> float:
    ours, theirs = (_CHARACTER.sub(r" \1 ", normalise(text)).split() for text in (prediction, target))
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return float(ours == theirs)
    return 2 * common / (len(ours) + len(theirs))


def _rouge_l(prediction: str, target: str) -> float:
    if not WORD.search(prediction) and not WORD.search(target):
        return float(prediction == target)
    return float(_rouge().score(target, prediction)["rougeL"].fmeasure)


class _Words:
    """The package's own tokenizer drops every letter that is not ASCII; on ASCII text this one agrees with it."""

    def tokenize(self, text: str) -> list[str]:
        return list(WORD.findall(text.lower()))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # 1.5 s of imports that label-only domains never need

    return RougeScorer(["rougeL"], tokenizer=_Words())


_ROW_SCORES: Mapping[MetricName, Callable[[str, str], float]] = {
    "accuracy": _accuracy,
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "rouge_l": _rouge_l,
}


def _numbered(
    predictions: Sequence[str], targets: Sequence[str]
) -> tuple[Int[ndarray, " row"], Int[ndarray, " row"], int]:
    names = {name: i for i, name in enumerate(sorted({*predictions, *targets}))}
    return np.array([names[p] for p in predictions]), np.array([names[t] for t in targets]), len(names)


def _macro_f1(
    predicted: Int[ndarray, "resample row"], wanted: Int[ndarray, "resample row"], classes: int
) -> Float[ndarray, " resample"]:
    total = np.zeros(len(wanted))
    present = np.zeros(len(wanted))
    for number in range(classes):
        is_predicted, is_wanted = predicted == number, wanted == number
        hits = (is_predicted & is_wanted).sum(1)
        marked = is_predicted.sum(1) + is_wanted.sum(1)
        total += 2 * hits / np.maximum(marked, 1)
        present += marked > 0
    return total / present
