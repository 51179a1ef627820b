from pathlib import Path

import pytest

from alter_core.errors import DataError
from alter_core.evaluation.baselines import majority_targets
from alter_core.evaluation.metrics import Interval
from alter_core.evaluation.scorecard import Confusion, Scorecard, score
from alter_core.inference.prediction import Prediction
from alter_core.spec import DomainSpec

ROWS = [
    *({"task": "fits", "id": f"f{i}", "input": "x", "target": t} for i, t in enumerate(["yes", "no", "no", "no way"])),
    *({"task": "where", "id": f"w{i}", "input": "x", "target": "on Monday"} for i in range(2)),
]
ANSWERS = ["yes", "no", "yes", "no", "Monday", "on Monday"]
PREDICTIONS = [Prediction(text, 0.5, i == 0) for i, text in enumerate(ANSWERS)]


def test_the_macro_score_is_the_mean_of_the_tasks_first_metrics(spec: DomainSpec) -> None:
    card = score(PREDICTIONS, ROWS, spec)
    assert card.tasks["fits"].score == 0.5
    assert card.tasks["where"].score == pytest.approx((2 / 3 + 1) / 2)
    assert card.macro.value == pytest.approx((0.5 + 5 / 6) / 2)
    assert card.macro.low <= card.macro.value <= card.macro.high


def test_every_row_keeps_its_score_under_its_id(spec: DomainSpec) -> None:
    card = score(PREDICTIONS, ROWS, spec)
    assert card.row_scores["fits"] == {"f0": 1, "f1": 1, "f2": 0, "f3": 0}
    assert card.tasks["fits"].truncated == 1


def test_the_majority_answer_is_scored_by_the_same_metric(spec: DomainSpec) -> None:
    majority = majority_targets({"fits": [row["target"] for row in ROWS if row["task"] == "fits"]})
    assert majority == {"fits": "no"}
    card = score(PREDICTIONS, ROWS, spec, majority)
    assert card.tasks["fits"].majority == 0.5
    assert card.tasks["where"].majority is None


def test_a_tie_for_the_majority_does_not_hang_on_the_rows_order() -> None:
    assert majority_targets({"fits": ["yes", "no"]}) == majority_targets({"fits": ["no", "yes"]}) == {"fits": "no"}


def test_the_confusion_matrix_has_targets_down_and_predictions_across(spec: DomainSpec) -> None:
    confusion = score(PREDICTIONS, ROWS, spec).tasks["fits"].confusion
    assert confusion == Confusion(("yes", "no", "no way"), ((1, 0, 0), (1, 1, 0), (0, 1, 0)))


def test_a_scorecard_survives_its_file(spec: DomainSpec, tmp_path: Path) -> None:
    card = score(PREDICTIONS, ROWS, spec)
    card.write(tmp_path / "scorecard.json")
    again = Scorecard.read(tmp_path / "scorecard.json")
    assert again == card
    assert Scorecard.read(tmp_path / "none.json") is None


def test_nothing_to_score_is_an_error(spec: DomainSpec) -> None:
    with pytest.raises(DataError, match="no rows to score"):
        score([], [], spec)


def test_rows_of_a_foreign_task_are_an_error(spec: DomainSpec) -> None:
    with pytest.raises(DataError, match="elsewhere"):
        score(PREDICTIONS[:1], [{"task": "elsewhere", "id": "1", "input": "x", "target": "y"}], spec)


def answered(spec: DomainSpec, right: dict[str, list[bool]]) -> Scorecard:
    """The scorecard of tasks whose rows were answered right or wrong."""
    ids = [(task, f"{task}{number}") for task, of in right.items() for number in range(len(of))]
    rows = [{"task": task, "id": id_, "input": "x", "target": "yes"} for task, id_ in ids]
    answers = [Prediction("yes" if is_right else "no", 1.0, False) for of in right.values() for is_right in of]
    return score(answers, rows, spec)


def test_the_macro_interval_is_of_the_mean_over_tasks(spec: DomainSpec) -> None:
    # No task's score moves with its rows.
    assert answered(spec, {"fits": [True] * 20, "where": [False] * 20}).macro == Interval(0.5, 0.5, 0.5)


def test_tasks_are_resampled_each_for_itself(spec: DomainSpec) -> None:
    macro = answered(spec, {"fits": [True, False] * 20, "where": [False, True] * 20}).macro
    assert macro.high - macro.low > 0.1  # the same picks for both would cancel to no width at all
