"""Calibration: the temperature at which a label task's scores are nearest to the share of answers that are right, and
the score below which it abstains so that a share of the other answers is right.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of what is told of a row: its answer's probability, against all
other labels together (Le Coz et al. 2024, arXiv 2411.02988).
The temperature is that of TEMPERATURES whose scores have the least log loss on validation rows, if that is less than at
temperature 1 by a standard error of the paired difference: scores that are good already would get worse by chance. It
divides all logits of a choice alike, so that every answer stays as it is.

The bound is the lowest one that leaves validation rows which show that share with CONFIDENCE (one-sided, Clopper and
Pearson 1934). The share that was counted would in its place promise too much every other time, as the lowest bound that
will do is often a lucky one; tests/evaluation/test_calibration.py draws both.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from alter_core.evaluation.scorecard import Bound, Calibration, Reliability
from alter_core.inference.decoding import tempered
from alter_core.inference.prediction import Prediction
from alter_core.spec.task import CONFIDENCE

FEWEST_ROWS = 30
"""Of fewer validation rows, the share that is right is itself off by 0.09 (one standard error at a half), which is as
much as a temperature has to mend."""
TEMPERATURES = tuple(sorted((1.05**step for step in range(-14, 43)), key=lambda t: abs(math.log(t))))
"""From a half to eight, nearest to 1 first: of equally good ones that is taken. Steps are finer than rows can tell
apart. None is under a half, as what rounding does to a score grows as the temperature falls, and a score has to be
repeated within a bound wherever the model is loaded."""
BINS = 10
NO_SCORE = 2.0
"""A bound above every score: all answers abstain."""


def calibrate(
    known: Sequence[Prediction],
    wanted: Sequence[str],
    answers: Sequence[Prediction],
    targets: Sequence[str],
    precision: float | None = None,
) -> Calibration:
    """Fit a task's temperature on validation rows, `known` with their targets `wanted`, and measure it on test rows,
    `answers` with `targets`; there must be test rows. precision: of the answers above a bound, which is fitted too."""
    temperature, reason = fit(known, wanted)
    right = _right(answers, targets)
    before, after = (reliability(scores_at(answers, t), right) for t in (1.0, temperature or 1.0))
    bound = None
    if precision is not None:
        below, kept = fit_bound(scores_at(known, temperature or 1.0), _right(known, wanted), precision)
        left = right[scores_at(answers, temperature or 1.0) >= below]
        reached = float(left.mean()) if len(left) else None
        bound = Bound(below, precision, len(kept), int(kept.sum()), reached)
    return Calibration(temperature, reason, len(known), before, after, bound)


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


def fit_bound(
    scores: Float[ndarray, " row"], right: Bool[ndarray, " row"], precision: float
) -> tuple[float, Bool[ndarray, " kept"]]:
    """The lowest bound that is shown to leave this share of right answers, and which of those that it leaves are right;
    NO_SCORE and none where there is no such bound. It lies in the middle between two scores: rounding moves no row."""
    from scipy.special import betaincinv  # late for speed: few tasks ask for it

    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    kept, hits = np.arange(1, len(scores) + 1), np.cumsum(right)
    lowest = betaincinv(np.maximum(hits, 1), kept - np.maximum(hits, 1) + 1, 1 - CONFIDENCE) * (hits > 0)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # equal scores stay or go together
    ends = np.flatnonzero(last & (lowest >= precision))
    if not len(ends):
        return NO_SCORE, right[:0]
    end = int(ends[-1]) + 1
    return float(scores[end - 1 : end + 1].mean()), right[:end]


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
