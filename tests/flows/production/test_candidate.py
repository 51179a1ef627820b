"""A candidate against the champion: what the rule is asked with, and what a version says of itself."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alter_core.training.result import TaskBest
from flows.production.candidate import Candidate, another_split
from tests.conftest import tiny_spec
from tests.flows.conftest import Read
from tests.registry.facts import scorecard

CHAMPION = {"version": 3, "tags": {}}


def version(number: int, **tags: str) -> dict[str, Any]:
    return {"version": number, "tags": tags}


def candidate(own: Any, against: Any, champion: Any, *, seed: int = 0, trouble: str = "", **split: str) -> Candidate:
    rule = SimpleNamespace(max_task_drop=0.02, confidence=0.6)
    plan = SimpleNamespace(spec=SimpleNamespace(name="tiny", promotion=rule, seed=seed, digest="s"), split_keys=split)
    parts = {"rows": SimpleNamespace(digest="d"), "backbone": SimpleNamespace(source="b")}
    production: Any = SimpleNamespace(plan=plan, trouble_with=lambda _: trouble, **parts)
    quality: Any = SimpleNamespace(outcome="ok")
    stages: Any = {"stage_one": None, "stage_two": None}
    cards = {"stage_one": scorecard(0.1, 1), "stage_two": own, **({"champion": against} if against else {})}
    return Candidate(production, quality, stages, None, "run", champion, cards)


def test_the_rule_has_the_specs_confidence_and_its_seed() -> None:
    first, second = (candidate(scorecard(0.7, 4), scorecard(0.68, 3), CHAMPION, seed=n).decide() for n in (0, 5))
    assert first.numbers["macro"]["confidence"] == 0.6
    assert first.numbers != second.numbers


def test_a_champion_that_shares_no_task_is_not_replaced_as_if_there_were_none() -> None:
    assert not candidate(scorecard(0.7, 4), None, CHAMPION).decide().promote
    assert candidate(scorecard(0.7, 4), None, None).decide().promote


def test_a_champion_whose_files_are_gone_is_replaced_by_a_person_alone() -> None:
    found = candidate(scorecard(0.7, 4), None, {"version": 3, "tags": {"split": "?"}}, trouble="3 is gone").decide()
    assert not found.promote
    assert "the champion cannot be compared (3 is gone); `alter promote" in found.reason


def test_a_champion_of_another_split_is_named_in_the_decision() -> None:
    then = {"version": 3, "tags": {"split": json.dumps({"intent": "then"})}}
    found = candidate(scorecard(0.7, 4), scorecard(0.6, 3), then, intent="now").decide()
    assert "the split is another than that of version 3" in found.reason


def test_a_fall_of_macro_f1_keeps_the_champion() -> None:
    old, new = scorecard(0.5, 1), scorecard(0.5, 1)
    for card, value in ((old, 0.82), (new, 0.487)):
        card["tasks"]["intent"] |= {"metric": "macro_f1", "metrics": {"macro_f1": {"value": value}}}
    assert not candidate(new, old, CHAMPION).decide().promote


def test_a_refresh_says_which_tasks_are_behind_the_champion_and_whose_adapters_the_others_are() -> None:
    cards = {"champion": scorecard(0.6, 1), "refresh": scorecard(0.7, 2)}
    first, second, *rest = cards["refresh"]["tasks"]
    metric = cards["refresh"]["tasks"][second]["metric"]
    cards["champion"]["tasks"][second]["metrics"][metric]["value"] = 0.99
    by_task = {name: TaskBest("step 3", 0.1, 0.01) for name in (first, second)}
    validation = SimpleNamespace(validation=SimpleNamespace(by_task=by_task))
    spec = SimpleNamespace(task_names=[first, second, *rest])
    before = {"tasks": {name: {"origin": 2} if name == rest[0] else {} for name in rest}}
    production: Any = SimpleNamespace(plan=SimpleNamespace(spec=spec), facts_of=lambda _: before)
    stages: Any = {"refresh": SimpleNamespace(result=validation)}
    found = Candidate(production, None, stages, 5, "run", CHAMPION, cards)  # type: ignore[arg-type]
    assert found.behind == [second]
    assert found.origins == {name: 2 if name == rest[0] else 5 for name in rest}


def test_a_version_says_which_rows_it_learnt_and_how_they_were_split() -> None:
    tags = candidate(scorecard(0.7, 4), None, None, intent="now").tags()
    assert (json.loads(tags["split"]), tags["data_digest"]) == ({"intent": "now"}, "d")


def test_a_version_whose_split_was_another_may_know_the_test_rows(read: Read, tiny_backbone: Path) -> None:
    made = version(1, split=json.dumps(read().split_keys))
    assert not another_split(read(seed=7), made)
    assert not another_split(read(), version(1, split=json.dumps({"colour": read().split_keys["colour"]})))
    assert not another_split(read(), version(1))
    assert another_split(read(split={"test": 0.4}), made)
    tasks = tiny_spec(tiny_backbone)["tasks"]
    groups: dict[str, Any] = {"split": {"by": "group", "test": 0.2}}
    grouped = version(1, split=json.dumps(read(**groups).split_keys))
    for change, by_row in (({"template": "ticket: {input}"}, True), ({"columns": {"group": "other"}}, False)):
        changed = [{**tasks[0], "source": {**tasks[0]["source"], **change}}, *tasks[1:]]
        assert another_split(read(tasks=changed), made) == by_row
        assert another_split(read(tasks=changed, **groups), grouped) != by_row
