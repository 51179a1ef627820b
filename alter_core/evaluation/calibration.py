"""Calibration: the temperature at which a label task's scores are nearest to the share of answers that are right.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of what is told of a row: its answer's probability, against all
other labels together (Le Coz et al. 2024, arXiv 2411.02988).
The temperature is that of TEMPERATURES whose scores have the least log loss on validation rows, if that is less than at
temperature 1 by a standard error of the paired difference: scores that are good already would get worse by chance. It
divides all logits of a choice alike, so that every answer stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from alter_core.evaluation.scorecard import Calibration, Reliability
from alter_core.inference.decoding import tempered
from alter_core.inference.predict import Prediction

FEWEST_ROWS = 30
"""Of fewer validation rows, the share that is right is itself off by 0.09 (one standard error at a half), which is as
much as a temperature has to mend."""
TEMPERATURES = tuple(sorted((1.05**step for step in range(-14, 43)), key=lambda t: abs(math.log(t))))
"""From a half to eight, nearest to 1 first: of equally good ones that is taken. Steps are finer than rows can tell
apart. None is under a half, as what rounding does to a score grows as the temperature falls, and a score has to be
repeated within a bound wherever the model is loaded."""
BINS = 10


def calibrate(
    known: Sequence[Prediction], wanted: Sequence[str], answers: Sequence[Prediction], targets: Sequence[str]
) -> Calibration:
    """Fit a task's temperature on validation rows, `known` with their targets `wanted`, and measure it on test rows,
    `answers` with `targets`; there must be test rows."""
    temperature, reason = fit(known, wanted)
    right = _right(answers, targets)
    before, after = (reliability(scores_at(answers, t), right) for t in (1.0, temperature or 1.0))
    return Calibration(temperature, reason, len(known), before, after)


def fit(known: Sequence[Prediction], wanted: Sequence[str]) -> tuple[float | None, str]:
    """The temperature of the least log loss; or None, and why these rows tell none."""
    right = _right(known, wanted)
    if len(right) < FEWEST_ROWS:
        return None, f"there are {len(right)} validation rows, and {FEWEST_ROWS} are the fewest"
    if right.all() or not right.any():
        return None, f"all {len(right)} validation rows are answered {'right' if right.all() else 'wrong'}"
    losses = {t: _losses(scores_at(known, t), right) for t in TEMPERATURES}
    best = min(TEMPERATURES, key=lambda t: float(losses[t].mean()))
    gains = losses[1.0] - losses[best]
    if gains.mean() <= gains.std(ddof=1) / math.sqrt(len(gains)):
        return None, f"none is shown to be better than 1 on {len(right)} validation rows"
    return best, ""


def at(answers: Sequence[Prediction], temperature: float) -> list[Prediction]:
    """The same answers, with labels' scores at a temperature."""
    return [replace(one, score=tempered(one.behind, temperature)) if one.behind else one for one in answers]


def scores_at(answers: Sequence[Prediction], temperature: float) -> Float[ndarray, " row"]:
    """Their scores at a temperature."""
    return np.array([tempered(answer.behind, temperature) for answer in answers])


def reliability(scores: Float[ndarray, " row"], right: Bool[ndarray, " row"]) -> Reliability:
    """Of one row or more, in BINS bins as sklearn's `calibration_curve` makes them, which takes a second to import."""
    _, places, rows = np.unique(
        np.linspace(0, 1, BINS + 1)[1:-1].searchsorted(scores), return_inverse=True, return_counts=True
    )
    means, shares = (np.bincount(places, weights=values) / rows for values in (scores, right))
    bins = tuple(zip(means.tolist(), shares.tolist(), rows.tolist(), strict=True))
    return Reliability(float(np.average(np.abs(shares - means), weights=rows)), bins)


def _losses(scores: Float[ndarray, " row"], right: Bool[ndarray, " row"]) -> Float[ndarray, " row"]:
    """Each row's log loss."""
    said = np.where(right, scores, 1 - scores)
    losses: Float[ndarray, " row"] = -np.log(np.clip(said, np.finfo(float).eps, None))
    return losses


def _right(answers: Sequence[Prediction], targets: Sequence[str]) -> Bool[ndarray, " row"]:
    return np.array([answer.text == target for answer, target in zip(answers, targets, strict=True)], dtype=bool)
