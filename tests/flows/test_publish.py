"""What a production takes from versions that are there already, and what it says when MLflow is away."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.candidate import another_split
from flows.plan import Plan
from flows.publish import ended, stands
from flows.steps import _logged
from registry.errors import RegistryInputError, StoreUnavailable
from tests.conftest import tiny_rows, tiny_spec, write_domain


def version(number: int, **tags: str) -> dict[str, Any]:
    return {"version": number, "tags": tags}


@pytest.mark.parametrize(
    ("settled", "champion", "wanted"),
    [
        (version(1, decision="promote"), version(1), True),
        (version(1, decision="promote"), None, False),
        (version(1, decision="promote", promoted="2026-01-01"), version(2), False),
        (version(2, decision="keep", champion_before="1"), version(1), True),
        (version(2, decision="keep", champion_before="1"), version(3), False),
        (version(2, decision="keep", champion_before="1"), None, False),
        (version(2, decision="promote", promoted="2026-01-01", rolled_back="2026-01-02"), version(1), True),
        (version(2, decision="promote", promoted="2026-01-03", rolled_back="2026-01-02"), version(3), False),
        (version(2, decision="promote", promoted="2026-01-01"), version(1, promoted_by="ann"), True),
    ],
    ids=[
        "is the champion", "the champion is gone", "another came after it", "refused by this champion",
        "refused by an earlier one", "refused, and none is left", "rolled back", "rolled back, promoted, replaced",
        "a person chose another",
    ],
)  # fmt: skip
def test_a_decision_stands_while_what_it_was_made_against_does(settled: Any, champion: Any, wanted: bool) -> None:
    assert stands(settled, champion) == wanted


def test_a_version_whose_split_was_another_may_know_the_test_rows(tmp_path: Path, tiny_backbone: Path) -> None:
    def plan(**changes: Any) -> Plan:
        return Plan.read(str(write_domain(tmp_path / "tiny", {**tiny_spec(tiny_backbone), **changes}, tiny_rows())))

    made = version(1, split=json.dumps(plan().split_keys))
    assert not another_split(plan(seed=7), made)
    assert not another_split(plan(), version(1, split=json.dumps({"colour": plan().split_keys["colour"]})))
    assert not another_split(plan(), version(1))
    assert another_split(plan(split={"test": 0.4}), made)
    tasks = tiny_spec(tiny_backbone)["tasks"]
    groups: dict[str, Any] = {"split": {"by": "group", "test": 0.2}}
    grouped = version(1, split=json.dumps(plan(**groups).split_keys))
    for change, by_row in (({"template": "ticket: {input}"}, True), ({"columns": {"group": "other"}}, False)):
        changed = [{**tasks[0], "source": {**tasks[0]["source"], **change}}, *tasks[1:]]
        assert another_split(plan(tasks=changed), made) == by_row
        assert another_split(plan(tasks=changed, **groups), grouped) != by_row


def test_a_stage_that_becomes_the_last_is_trained_anew_for_its_bundle_must_hold_the_backbone(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    keys = []
    for change in ({}, {"stage_two": None}, {"description": "Other words."}):
        spec = write_domain(tmp_path / "tiny", {**tiny_spec(tiny_backbone), **change}, tiny_rows())
        keys.append(Plan.read(str(spec)).stage_key("stage_one", "data", "backbone", None))
    assert keys[0] == keys[2] != keys[1]


def away(*_: Any) -> None:
    raise StoreUnavailable("the store does not answer")


def test_a_store_that_is_away_does_not_hide_why_a_run_ended() -> None:
    run: Any = SimpleNamespace(id="1", tracker=SimpleNamespace(end_run=away))
    with pytest.raises(MemoryError, match="ran out"), ended(run):
        raise MemoryError("ran out")
    with pytest.raises(StoreUnavailable), ended(run):
        pass


def test_a_store_that_is_away_ends_no_training_and_a_wrong_call_does() -> None:
    def wrong(_rows: Any) -> None:
        raise RegistryInputError("no such run")

    assert _logged(lambda rows: None, [{}])
    assert not _logged(away, [{}])
    with pytest.raises(RegistryInputError):
        _logged(wrong, [{}])
