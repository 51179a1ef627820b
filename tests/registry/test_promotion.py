"""The promotion rule: better, worse, equal, missing, changed."""

import math
import random
import statistics
from collections.abc import Mapping

import pytest

from registry.promotion import Decision, decide

Scores = Mapping[str, Mapping[str, float]]


def scores(rows: int = 400, seed: int = 0, first: int = 0, **accuracy: float) -> dict[str, dict[str, float]]:
    """Right or wrong answers of several tasks, with exactly the given shares right, spread at random."""
    out = {}
    for number, (task, share) in enumerate(accuracy.items()):
        right = [1.0] * round(share * rows) + [0.0] * (rows - round(share * rows))
        random.Random(seed * 100 + number).shuffle(right)
        out[task] = {f"{task}-{first + place}": value for place, value in enumerate(right)}
    return out


def ruled(candidate: Scores, champion: Scores | None, drop: float = 0.02) -> Decision:
    return decide(candidate, champion, max_task_drop=drop, confidence=0.95, seed=3)


def test_without_a_champion_the_candidate_is_promoted() -> None:
    decision = ruled(scores(a=0.1), None)
    assert decision.promote
    assert "no champion" in decision.reason
    assert decision.numbers["macro"] == pytest.approx(0.1)


def test_a_better_candidate_is_promoted_with_its_gain() -> None:
    decision = ruled(scores(a=0.8, b=0.7), scores(a=0.6, b=0.6, seed=1))
    assert decision.promote
    assert decision.numbers["macro"]["difference"] == pytest.approx(0.15)
    assert decision.numbers["macro"]["low"] > 0


def test_a_worse_candidate_is_not_even_when_the_tolerance_is_wide() -> None:
    decision = ruled(scores(a=0.6, b=0.6), scores(a=0.8, b=0.7, seed=1), drop=1.0)
    assert not decision.promote
    assert "macro score falls" in decision.reason
    assert decision.numbers["macro"]["high"] < 0


def test_equal_scores_promote() -> None:
    same = scores(a=0.5, b=0.3)
    decision = ruled(same, same)
    assert decision.promote
    assert decision.numbers["macro"]["low"] == decision.numbers["macro"]["high"] == 0


def test_ties_with_rounding_are_no_fall() -> None:
    champion = {"a": dict.fromkeys(map(str, range(7)), 0.1 + 0.2)}
    candidate = {"a": dict.fromkeys(map(str, range(7)), 0.3)}
    assert ruled(candidate, champion, drop=0.0).promote


def test_a_fall_within_the_noise_of_the_rows_is_no_fall() -> None:
    assert ruled(scores(a=0.60, b=0.60), scores(a=0.61, b=0.60, seed=1)).promote


def test_the_same_small_fall_is_one_when_many_rows_show_it() -> None:
    champion = {"a": {str(row): float(row % 2) for row in range(4000)}}
    candidate = {"a": {row: 0.0 if int(row) < 100 else value for row, value in champion["a"].items()}}
    decision = ruled(candidate, champion, drop=0.05)
    assert not decision.promote
    assert -0.02 < decision.numbers["macro"]["difference"] < 0


def test_one_task_collapsing_while_the_mean_rises_stops_the_promotion_and_is_named() -> None:
    decision = ruled(scores(a=0.95, b=0.95, c=0.30), scores(a=0.60, b=0.60, c=0.50, seed=1))
    assert not decision.promote
    assert decision.numbers["macro"]["difference"] > 0
    assert "c falls by 0.200" in decision.reason
    assert "a falls" not in decision.reason


def test_a_fall_of_exactly_the_tolerance_is_allowed() -> None:
    assert ruled(scores(a=0.48, b=0.9), scores(a=0.50, b=0.5, seed=1), drop=0.02).promote


def test_an_added_task_is_reported_and_not_compared() -> None:
    decision = ruled(scores(a=0.6, fresh=0.01), scores(a=0.6))
    assert decision.promote
    assert decision.numbers["added"] == ["fresh"]
    assert "fresh" not in decision.numbers["tasks"]
    assert "new: fresh" in decision.reason


def test_a_removed_task_is_named_and_does_not_hinder() -> None:
    decision = ruled(scores(a=0.6), scores(a=0.6, gone=1.0))
    assert decision.promote
    assert "no longer there: gone" in decision.reason


def test_a_changed_test_set_is_compared_on_the_rows_that_both_scored() -> None:
    champion = scores(a=0.5, rows=100)
    candidate = {"a": {**champion["a"], **scores(a=0.0, rows=300, first=100)["a"]}}
    decision = ruled(candidate, champion)
    assert decision.promote
    assert decision.numbers["tasks"]["a"]["rows"] == 100
    assert decision.numbers["macro"]["difference"] == 0


def test_no_shared_row_shows_nothing_and_promotes_nothing() -> None:
    decision = ruled(scores(a=0.9), scores(a=0.1, first=10_000))
    assert not decision.promote
    assert "share no task" in decision.reason


def test_a_candidate_score_that_is_not_a_number_is_never_promoted() -> None:
    candidate = scores(a=0.9, b=0.9)
    candidate["b"]["b-0"] = math.nan
    for champion in (None, scores(a=0.1, b=0.1)):
        decision = ruled(candidate, champion)
        assert not decision.promote
        assert decision.reason.startswith("b:")


def test_a_champion_score_that_is_not_a_number_is_left_out_on_both_sides() -> None:
    champion = scores(a=0.5)
    champion["a"]["a-0"] = math.nan
    decision = ruled(scores(a=0.5), champion)
    assert decision.promote
    assert decision.numbers["tasks"]["a"]["rows"] == 399


@pytest.mark.parametrize("candidate", [{}, {"a": {}}])
def test_a_candidate_without_scores_is_not_promoted(candidate: Scores) -> None:
    assert not ruled(candidate, None).promote


def test_each_task_counts_the_same_however_many_rows_it_has() -> None:
    candidate = {**scores(a=0.7, rows=1000), **scores(b=0.5, rows=10, seed=2)}
    champion = {**scores(a=0.5, rows=1000), **scores(b=0.5, rows=10, seed=2)}
    assert ruled(candidate, champion).numbers["macro"]["difference"] == pytest.approx(0.1)


def test_the_interval_is_that_of_a_paired_difference() -> None:
    """Row noise that both sides share cancels: identical rows but one leave an interval of one row's width."""
    champion = scores(a=0.5, rows=1000)
    candidate = {"a": {**champion["a"]}}
    wrong = next(row for row, value in candidate["a"].items() if value == 0)
    candidate["a"][wrong] = 1.0
    macro = ruled(candidate, champion).numbers["macro"]
    assert 0 <= macro["low"] <= 0.001 <= macro["high"] <= 0.005


def test_the_same_seed_gives_the_same_decision_and_the_order_of_tasks_does_not_matter() -> None:
    candidate, champion = scores(a=0.6, b=0.7), scores(a=0.6, b=0.6, seed=1)
    turned = dict(reversed(candidate.items()))
    assert ruled(candidate, champion) == ruled(turned, champion)


@pytest.mark.parametrize("wrong", [{"max_task_drop": -0.1}, {"confidence": 1.0}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        decide(scores(a=0.5), None, **{"max_task_drop": 0.02, **wrong})


@pytest.mark.parametrize(("confidence", "deviations"), [(0.95, 1.96), (0.8, 1.2816)])
def test_the_interval_is_as_wide_as_its_confidence_says(confidence: float, deviations: float) -> None:
    champion, candidate = scores(a=0.5, rows=1000), scores(a=0.5, rows=1000, seed=1)
    spread = statistics.pstdev(candidate["a"][row] - value for row, value in champion["a"].items()) / 1000**0.5
    macro = decide(candidate, champion, 0.02, confidence).numbers["macro"]
    assert macro["high"] - macro["low"] == pytest.approx(2 * deviations * spread, rel=0.08)


def test_each_side_has_its_own_mean() -> None:
    macro = ruled(scores(a=0.8, b=0.7), scores(a=0.6, b=0.6, seed=1)).numbers["macro"]
    assert (macro["candidate"], macro["champion"]) == (pytest.approx(0.75), pytest.approx(0.6))


def test_a_task_of_few_rows_may_not_fall_either_though_its_interval_is_wide() -> None:
    champion = {"a": {str(n): float(n < 5) for n in range(10)}, **scores(b=0.5)}
    candidate = {"a": {**champion["a"], "4": 0.0}, **scores(b=0.7)}
    decision = ruled(candidate, champion)
    assert decision.numbers["macro"]["difference"] > 0
    assert not decision.promote
    assert "a falls by 0.100" in decision.reason
