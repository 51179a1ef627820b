"""Temperatures: what is fitted, when none is, and how far scores are from the share that is right."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from alter_core.evaluation.calibration import (
    BINS,
    FEWEST_ROWS,
    NO_SCORE,
    TEMPERATURES,
    at,
    calibrate,
    fit,
    fit_bound,
    reliability,
    scores_at,
)
from alter_core.inference.prediction import Prediction
from alter_core.spec import TaskSpec

Behind = tuple[tuple[float, ...], ...]
ONE = ((-1.0, -2.0),)


def answers(behind: Sequence[Behind], right: Sequence[bool]) -> tuple[list[Prediction], list[str]]:
    """Answers of such choices, and targets that make them right or wrong."""
    return [Prediction("a", 0.5, False, behind=one) for one in behind], ["a" if one else "b" for one in right]


choices = st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=4).map(tuple), max_size=3).map(tuple)


@given(st.lists(st.tuples(choices, st.booleans()), min_size=FEWEST_ROWS, max_size=60))
def test_a_temperature_never_tells_validation_rows_worse_than_none_and_changes_no_answer(
    rows: list[tuple[Behind, bool]],
) -> None:
    right = [one for _, one in rows]
    known, wanted = answers([behind for behind, _ in rows], right)
    temperature, reason = fit(known, wanted)
    assert (temperature is None) == bool(reason)
    if len(set(right)) == 1:
        assert temperature is None
    if temperature is not None:
        assert log_loss(right, scores_at(known, temperature)) < log_loss(right, scores_at(known, 1.0))
        calibrated = at(known, temperature)
        assert [(one.text, one.truncated) for one in calibrated] == [(one.text, one.truncated) for one in known]
        assert all(0 < one.score <= 1 for one in calibrated)


def drawn_at(temperature: float, rows: int) -> tuple[list[Prediction], list[str]]:
    """Answers that are right as often as their scores at a temperature say."""
    rng = np.random.default_rng(0)
    logits = -np.sort(-rng.normal(0, 3, (rows, 3)), axis=1)
    chances = np.exp(logits / temperature)
    right = rng.random(rows) < chances[:, 0] / chances.sum(1)
    return answers([((a - best, b - best),) for best, a, b in logits.tolist()], right.tolist())


@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_the_temperature_that_answers_were_drawn_at_is_found_again(temperature: float) -> None:
    known, wanted = drawn_at(temperature, 4000)
    found = calibrate(known, wanted, known, wanted)
    assert found.temperature == pytest.approx(temperature, rel=0.15)
    assert found.after.error < found.before.error / 2


def test_scores_that_are_probabilities_already_are_left_as_they_are() -> None:
    known, wanted = drawn_at(1.0, 120)
    temperature, reason = fit(known, wanted)
    assert (temperature, reason) == (None, "none is shown to be better than 1 on 120 validation rows")
    losses = [
        log_loss([a.text == b for a, b in zip(known, wanted, strict=True)], scores_at(known, t)) for t in TEMPERATURES
    ]
    assert min(losses) < losses[0]  # by chance, one is


@pytest.mark.parametrize(
    ("behind", "right", "reason"),
    [
        ([()] * 40, [True] * 40, "all 40 validation rows are answered right"),  # a task of one label
        ([ONE] * 40, [True] * 40, "all 40 validation rows are answered right"),
        ([ONE] * 40, [False] * 40, "all 40 validation rows are answered wrong"),
        ([ONE] * 29, [True, *[False] * 28], "there are 29 validation rows, and 30 are the fewest"),
        ([], [], "there are 0 validation rows, and 30 are the fewest"),
        ([()] * 40, [True, *[False] * 39], "none is shown to be better than 1 on 40 validation rows"),
    ],
)
def test_rows_that_tell_no_temperature_leave_scores_as_they_are_and_the_reason_is_told(
    behind: list[Behind], right: list[bool], reason: str
) -> None:
    test = answers([ONE, ONE], [True, False])
    found = calibrate(*answers(behind, right), *test)
    assert (found.temperature, found.reason, found.validation_rows) == (None, reason, len(right))
    assert found.before == found.after


def test_temperatures_are_tried_from_a_half_to_eight() -> None:
    assert TEMPERATURES[0] == 1
    assert min(TEMPERATURES) > 0.5
    assert max(TEMPERATURES) < 8


def test_the_error_is_that_of_a_small_example_by_hand() -> None:
    scores = np.array([0.05, 0.62, 0.68, 0.95, 1.0])
    right = np.array([False, True, False, True, True])
    found = reliability(scores, right)
    assert [rows for *_, rows in found.bins] == [1, 2, 2]
    assert found.bins[1][:2] == pytest.approx((0.65, 0.5))
    # One row is 0.05 too sure, two are 0.15 too sure, two are 0.025 too unsure.
    assert found.error == pytest.approx((1 * 0.05 + 2 * 0.15 + 2 * 0.025) / 5)


@given(st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.1, 0.3, 0.7]), st.booleans()), min_size=1, max_size=60))
def test_bins_are_those_of_sklearn_and_count_each_row_once(rows: list[tuple[float, bool]]) -> None:
    scores, right = np.array([score for score, _ in rows]), np.array([one for _, one in rows])
    shares, means = calibration_curve(right, scores, n_bins=BINS, pos_label=True)
    found = reliability(scores, right)
    assert [bin[:2] for bin in found.bins] == list(zip(means, shares, strict=True))
    assert sum(count for *_, count in found.bins) == len(rows)


def test_scores_of_several_choices_are_the_product_of_each_at_the_temperature() -> None:
    known, _ = answers([((-2.0,), (-1.0, -3.0))], [True])
    first, second = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.5) + math.exp(-1.5))
    assert at(known, 2.0)[0].score == pytest.approx(first * second)
    free = Prediction("a", 0.25, False)
    assert at([free], 2.0) == [free]


def test_scoring_models_needs_no_sklearn() -> None:
    code = "import sys, alter_core.evaluation.run; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


def shows(right: Sequence[bool], precision: float) -> bool:
    """Whether these rows show that so many of all such are right; by SciPy's own interval."""
    found = binomtest(sum(right), len(right), alternative="greater").proportion_ci(0.95, "exact")
    return float(found.low) >= precision


@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.7, 0.9, 0.99, 1.0]), st.booleans()), max_size=60),
    st.sampled_from([0.1, 0.5, 0.8, 0.9]),
)
def test_the_bound_is_the_lowest_that_rows_show_to_leave_as_many_right_answers_as_are_asked_for(
    rows: list[tuple[float, bool]], precision: float
) -> None:
    scores, right = np.array([score for score, _ in rows]), np.array([hit for _, hit in rows], dtype=bool)
    below, kept = fit_bound(scores, right, precision)
    enough = [one for one in sorted(set(scores.tolist())) if shows(right[scores >= one].tolist(), precision)]
    assert sorted(kept) == sorted(right[scores >= below])
    assert (scores >= below).tolist() == (scores >= (enough[0] if enough else NO_SCORE)).tolist()


def test_a_fitted_bound_keeps_its_word_as_often_as_is_told_and_the_counted_share_would_not() -> None:
    """Scores that are right as often as they say. Of 400 draws of 300 validation rows, one in twenty may break it."""
    rng, precision = np.random.default_rng(0), 0.9
    every = np.sort(rng.beta(4, 1, 200_000))
    truly = np.cumsum(every[::-1])[::-1] / np.arange(len(every), 0, -1)  # of the answers from this score on
    broken = {"shown": 0, "counted": 0}
    for _ in range(400):
        scores = rng.beta(4, 1, 300)
        right = rng.random(300) < scores
        falling = np.sort(-scores) * -1
        counted = np.cumsum(right[np.argsort(-scores)]) / np.arange(1, 301)
        lucky = falling[np.flatnonzero((counted >= precision) & (np.arange(300) >= 30))]
        bounds = {"shown": fit_bound(scores, right, precision)[0], "counted": lucky[-1] if len(lucky) else NO_SCORE}
        for name, below in bounds.items():
            if below < 1:
                broken[name] += truly[np.searchsorted(every, below)] < precision
    assert broken["shown"] / 400 < 0.08
    assert broken["counted"] / 400 > 0.4


@pytest.mark.parametrize(("precision", "fewest"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_task_knows_how_many_rows_the_precision_takes_that_it_asks_for(precision: float, fewest: int) -> None:
    task = TaskSpec.model_validate(
        {"name": "t", "type": "classification", "source": {"path": "t.jsonl"}, "abstain_precision": precision}
    )
    assert task.fewest_rows == fewest
    for rows, found in ((fewest - 1, NO_SCORE), (fewest, 0.9)):
        below, _ = fit_bound(np.full(rows, 0.9), np.full(rows, True), precision)
        assert below == found


def test_a_bound_is_fitted_to_scores_at_the_temperature_and_measured_on_test_rows() -> None:
    known, wanted = drawn_at(2.5, 4000)
    test, targets = drawn_at(2.5, 1000)
    found = calibrate(known, wanted, test, targets, 0.9)
    assert found.bound is not None
    assert found.temperature is not None
    left = scores_at(test, found.temperature) >= found.bound.below
    assert 0 < left.mean() < 1
    hits = np.array([answer.text == target for answer, target in zip(test, targets, strict=True)])
    assert found.bound.reached == pytest.approx(hits[left].mean())
    assert found.bound.right / found.bound.kept > 0.9
    assert calibrate(known, wanted, test, targets).bound is None
