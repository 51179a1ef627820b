"""What makes another production, stage, scoring, check or split: the keys of a plan."""

from pathlib import Path
from typing import Any

from flows.production.plan import Plan
from tests.conftest import tiny_spec
from tests.flows.conftest import Read


def test_a_stage_that_becomes_the_last_is_trained_anew_for_its_bundle_must_hold_the_backbone(
    read: Read,
) -> None:
    changes: list[dict[str, Any]] = [{}, {"stage_two": None}, {"description": "Other words."}]
    keys = [read(**change).stage_key("stage_one", "data", "backbone", None) for change in changes]
    assert keys[0] == keys[2] != keys[1]


def test_a_stage_on_anything_else_is_another_one(read: Read) -> None:
    given = ("stage_two", "data", "backbone", "start")
    assert read().stage_key(*given) == read().stage_key(*given)
    others = [("stage_one", *given[1:]), ("stage_two", "x", "backbone", "start")]
    others += [("stage_two", "data", "x", "start"), ("stage_two", "data", "backbone", "x")]
    keys = [read().stage_key(*other) for other in (given, *others)]
    keys += [read(**it).stage_key(*given) for it in ({"seed": 1}, {"precision": "bf16"}, {"trunk_cache": False})]
    assert len(set(keys)) == len(keys)


def test_a_scoring_of_anything_else_is_another_one(read: Read) -> None:
    keys = [read().score_key(*given) for given in (("bundle", "data"), ("x", "data"), ("bundle", "x"))]
    keys += [read(evaluation=it).score_key("bundle", "data") for it in ({"max_rows": 7}, {"baselines": []})]
    assert len(set(keys)) == len(keys)


def test_a_production_of_anything_else_is_another_one(read: Read) -> None:
    plan = read()
    keys = [plan.run_key(*given) for given in (("data", "backbone"), ("x", "backbone"), ("data", "x"))]
    keys += [Plan.read(str(plan.file), added="thing").run_key("data", "backbone")]
    keys += [read(seed=1).run_key("data", "backbone")]
    assert len(set(keys)) == len(keys)


def test_rows_are_checked_anew_beside_another_champion(read: Read) -> None:
    assert len({read().quality_key("d", {}, "backbone", number) for number in (None, 1, 2)}) == 3


def test_test_rows_of_its_own_make_a_tasks_split_another_one(read: Read, tiny_backbone: Path) -> None:
    first, *others = tiny_spec(tiny_backbone)["tasks"]
    (read().file.parent / "exam.jsonl").write_text('{"input": "x", "target": "red"}\n')
    changed = read(tasks=[{**first, "test": {"path": "exam.jsonl"}}, *others])
    assert changed.split_keys["colour"] != read().split_keys["colour"]
    assert changed.split_keys["match"] == read().split_keys["match"]
