"""Two versions side by side."""

from registry.comparison import compare
from tests.registry.facts import scorecard


def test_scores_stand_side_by_side_with_what_the_rule_says() -> None:
    result = compare(scorecard(0.5, 1), scorecard(0.7, 2), max_task_drop=0.02)
    assert result["tasks"]["intent"] == {
        "metric": "accuracy",
        "first": 0.5,
        "second": 0.7,
        "difference": 0.7 - 0.5,
        "rows": 200,
    }
    assert result["decision"]["promote"]
    assert not compare(scorecard(0.7, 2), scorecard(0.5, 1), max_task_drop=0.02)["decision"]["promote"]


def test_a_task_that_one_side_lacks_is_shown_without_a_difference() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.7, 2)
    del old["tasks"]["due"], old["row_scores"]["due"]
    task = compare(old, new, max_task_drop=0.02)["tasks"]["due"]
    assert (task["first"], task["difference"], task["rows"]) == (None, None, 0)


def test_versions_with_other_test_rows_are_said_to_share_none() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.7, 2)
    new["row_scores"] = {
        task: {f"new-{row}": value for row, value in rows.items()} for task, rows in new["row_scores"].items()
    }
    result = compare(old, new, max_task_drop=0.02)
    assert result["shared_rows"] == 0
    assert not result["decision"]["promote"]
