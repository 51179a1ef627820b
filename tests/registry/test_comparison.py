"""Two versions side by side."""

from registry.comparison import aggregates, compare
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


def test_a_task_that_is_scored_by_another_metric_is_not_compared() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.7, 2)
    old["tasks"]["intent"] |= {"metric": "exact_match", "metrics": {"exact_match": {"value": 1.0, "low": 0, "high": 1}}}
    old["row_scores"]["intent"] = dict.fromkeys(old["row_scores"]["intent"], 1.0)  # would block
    result = compare(old, new, max_task_drop=0.02)
    assert (result["tasks"]["intent"]["first"], result["tasks"]["intent"]["rows"]) == (None, 0)
    assert result["macro"] == {"first": None, "second": None}
    assert result["decision"]["promote"]
    assert "intent is not compared: it is scored by accuracy, and was by exact_match" in result["decision"]["reason"]


def test_where_all_tasks_changed_their_metric_nothing_is_compared() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.7, 2)
    for task in old["tasks"].values():
        task["metrics"] = {"exact_match": task["metrics"][task["metric"]]}
        task["metric"] = "exact_match"
    decision = compare(old, new, max_task_drop=0.02)["decision"]
    assert decision["reason"].startswith("no task is scored by the same metric on both sides; intent is not compared")


def test_a_fall_of_macro_f1_counts_where_rows_show_none() -> None:
    """95 rows of a class and 5 of another: who always says the first is as accurate as who is right on half of both."""
    old, new = scorecard(0.5, 1), scorecard(0.5, 1)
    assert aggregates(new, old) == {}
    for card, value in ((old, 0.82), (new, 0.487)):
        card["tasks"]["intent"] |= {
            "metric": "macro_f1",
            "metrics": {"macro_f1": {"value": value, "low": 0, "high": 1}},
        }
    assert aggregates(new, old) == {"intent": {"metric": "macro_f1", "candidate": 0.487, "champion": 0.82}}
    decision = compare(old, new, max_task_drop=0.02)["decision"]
    assert not decision["promote"]
    assert "intent falls by 0.333 (by its macro_f1), more than the 0.02" in decision["reason"]
    other = compare(new, old, max_task_drop=0.02)["decision"]
    assert other["promote"]
    assert "counted there by rows, not by macro_f1: intent" in other["reason"]


def test_rows_that_both_versions_answered_are_counted() -> None:
    assert compare(scorecard(0.5, 1), scorecard(0.7, 2), 0.02)["shared_rows"] == 600


def test_the_rule_is_asked_with_the_confidence_that_is_given() -> None:
    numbers = compare(scorecard(0.5, 1), scorecard(0.7, 2), 0.02, confidence=0.6)["decision"]["numbers"]
    assert numbers["macro"]["confidence"] == 0.6


def test_macro_f1_is_not_compared_over_other_rows() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.5, 1)
    for card, value in ((old, 0.82), (new, 0.487)):
        card["tasks"]["intent"] |= {"metric": "macro_f1", "metrics": {"macro_f1": {"value": value}}}
    assert aggregates(new, old)
    del old["row_scores"]["intent"]["intent-0"]
    assert aggregates(new, old) == {}
