"""What a production takes from versions that are there already, and what it says when MLflow is away."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import publish
from flows.production.candidate import Candidate, another_split
from flows.production.earlier import bundle_to_compare, first_start, is_unsettled, stands
from flows.production.plan import Plan
from flows.production.production import Quality
from flows.publish import Run, ended
from flows.steps import _logged
from registry.errors import RegistryInputError, StoreUnavailable
from registry.models import STARTED_FROM
from tests.conftest import tiny_spec
from tests.flows.conftest import Produce, Read, trained
from tests.registry.conftest import Store
from tests.registry.facts import scorecard


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


def test_a_stage_that_becomes_the_last_is_trained_anew_for_its_bundle_must_hold_the_backbone(
    read: Read,
) -> None:
    changes: list[dict[str, Any]] = [{}, {"stage_two": None}, {"description": "Other words."}]
    keys = [read(**change).stage_key("stage_one", "data", "backbone", None) for change in changes]
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


@pytest.mark.parametrize(
    ("champion", "start"),
    [
        ({}, 7),
        ({"split": {"colour": "another"}}, None),  # it may have learnt what are test rows now
        ({"backbone": "another"}, None),
        ({"tasks": ["colour", "match"]}, None),
    ],
)
def test_training_goes_on_from_a_champion_of_the_same_split_backbone_and_tasks_alone(
    champion: dict[str, Any], start: int | None, read: Read, production: Produce, bundle: Path, tiny_backbone: Path
) -> None:
    tasks = [one for one in tiny_spec(tiny_backbone)["tasks"] if one["name"] in champion.get("tasks", one["name"])]
    plan = read(warm_start="champion", tasks=tasks)
    facts = {"backbone": {"digest": champion.get("backbone", "b")}}
    models = SimpleNamespace(bundle_path=lambda *_: bundle, facts=lambda *_: facts)
    tags = {"data_digest": "old", "split": json.dumps({**plan.split_keys, **champion.get("split", {})})}
    found, said = first_start(production(plan, stores=SimpleNamespace(models=models)), version(7, **tags))
    assert (found and found.version) == start
    assert ("training starts from version 7" if start else "no warm start from version 7") in said


def test_a_champion_without_a_task_in_common_is_not_compared(
    read: Read, production: Produce, bundle: Path, tiny_backbone: Path
) -> None:
    first, second, _ = tiny_spec(tiny_backbone)["tasks"]
    stores = SimpleNamespace(models=SimpleNamespace(bundle_path=lambda *_: bundle))
    for tasks, wanted in (([first, {**second, "name": "new"}], str(bundle)), ([{**first, "name": "new"}], None)):
        assert bundle_to_compare(production(read(tasks=tasks), stores=stores), version(1)) == wanted


def test_a_champion_that_carries_no_decision_was_not_cut_off_at_its_end() -> None:
    assert not is_unsettled({"version": 1, "tags": {"run_key": "key"}}, "key")


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "FINISHED")]
)
def test_a_run_in_mlflow_ends_as_its_production_did(error: BaseException | None, status: str) -> None:
    told: list[str] = []
    run: Any = SimpleNamespace(id="1", tracker=SimpleNamespace(end_run=lambda _id, status: told.append(status)))
    with suppress(MemoryError, KeyboardInterrupt), ended(run):
        if error:
            raise error
    assert told == [status]


def test_a_candidate_is_registered_with_what_it_was_made_of(
    store: Store, production: Produce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    made = production()
    stages = {"stage_two": trained(tmp_path / "stage")}
    tracker = made.stores.tracker
    run = Run(tracker.start_run("run", {}, {}), tracker)
    card = scorecard(0.7, 4)
    quality = Quality(tmp_path, "ok", (), {}, {})
    candidate = Candidate(made, quality, stages, 7, run.id, scorecards={"stage_two": card})
    number = publish.register.fn(candidate, run)
    tags = store.models.get("tiny", number)["tags"]
    assert tags[STARTED_FROM] == "7"  # for gc, which keeps it
    assert (tags["run_key"], tags["data_digest"]) == (made.run_key, "d")
    logged = store.models.client.get_run(run.id).data.metrics
    assert logged["macro"] == pytest.approx(card["macro"]["value"])
    assert logged["validation_macro.before"] == 0.5
    assert made.facts_of(number)["gates"] == stages["stage_two"].result.gates
