"""What makes another production, stage, scoring, check or split: the keys of a plan."""

from pathlib import Path
from typing import Any

import pytest

from alter_core.errors import SpecError
from flows.production.plan import Plan
from tests.conftest import tiny_spec
from tests.flows.conftest import Read


def keys(plan: Plan, data: str = "data", backbone: str = "backbone", start: str | None = "start") -> dict[str, str]:
    """What each result of a production is found by again."""
    return {
        "stage_one": plan.stage_key("stage_one", data, backbone, start),
        "stage_two": plan.stage_key("stage_two", data, backbone, start),
        "score": plan.score_key(start or backbone, data),
        "run": plan.run_key(data, backbone),
    }


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ""),
        ({"description": "Other words.", "schedule": {"cron": "0 3 * * 1"}}, ""),
        ({"promotion": {"max_task_drop": 0.9}}, "run"),
        ({"evaluation": {"max_rows": 7}}, "score run"),
        ({"evaluation": {"baselines": []}}, "score run"),
        ({"tasks": "abstain_below"}, "score run"),
        ({"tasks": "abstain_precision"}, "score run"),
        ({"seed": 1}, "stage_one stage_two run"),
        ({"precision": "bf16"}, "stage_one stage_two run"),
        ({"trunk_cache": False}, "stage_one stage_two run"),
        ({"stage_two": {"steps": 4, "learning_rate": 1e-3}}, "stage_two run"),
        ({"stage_two": None}, "stage_one stage_two run"),  # the last stage's bundle must hold the backbone
    ],
)
def test_a_change_of_the_spec_makes_just_that_anew_which_depends_on_it(
    changes: dict[str, Any], wanted: str, read: Read, tiny_backbone: Path
) -> None:
    if "tasks" in changes:
        changes = {
            "tasks": [
                {**task, **({changes["tasks"]: 0.7} if task["name"] == "colour" else {})}
                for task in tiny_spec(tiny_backbone)["tasks"]
            ]
        }
    before, after = keys(read()), keys(read(**changes))
    assert [what for what in before if before[what] != after[what]] == wanted.split()


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"data": "x"}, "stage_one stage_two score run"),
        ({"backbone": "x"}, "stage_one stage_two run"),
        ({"start": "x"}, "stage_one stage_two score"),
    ],
)
def test_other_rows_another_backbone_or_start_makes_just_that_anew_which_is_made_of_it(
    other: dict[str, str], wanted: str, read: Read
) -> None:
    before, after = keys(read()), keys(read(), **other)
    assert [what for what in before if before[what] != after[what]] == wanted.split()


def test_a_task_that_is_added_makes_a_run_of_its_own(read: Read) -> None:
    plan = read()
    assert keys(Plan.read(str(plan.file), added="thing"))["run"] != keys(plan)["run"]
    with pytest.raises(SpecError, match="there is no task 'thin'; its tasks are colour, match, thing"):
        Plan.read(str(plan.file), added="thin")


def test_rows_are_checked_anew_beside_another_champion(read: Read) -> None:
    assert len({read().quality_key("d", {}, "backbone", number) for number in (None, 1, 2)}) == 3


def test_test_rows_of_its_own_make_a_tasks_split_another_one(read: Read, tiny_backbone: Path) -> None:
    first, *others = tiny_spec(tiny_backbone)["tasks"]
    (read().file.parent / "exam.jsonl").write_text('{"input": "x", "target": "red"}\n')
    changed = read(tasks=[{**first, "test": {"path": "exam.jsonl"}}, *others])
    assert changed.split_keys["colour"] != read().split_keys["colour"]
    assert changed.split_keys["match"] == read().split_keys["match"]
