"""What a production takes from versions that are there already, on a real store where it asks one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.errors import AlterError
from flows.production.earlier import (
    SETTLED,
    bundle_to_compare,
    champion_profile,
    first_start,
    is_unsettled,
    settled,
    stands,
)
from flows.production.plan import Plan
from flows.production.production import Production
from flows.production.stage import Start
from registry.models import STARTED_FROM
from tests.conftest import tiny_spec
from tests.flows.conftest import Produce, Read
from tests.registry.conftest import Store
from tests.registry.facts import card_facts


def version(number: int, **tags: str) -> dict[str, Any]:
    return {"version": number, "tags": tags}


@pytest.fixture
def made(store: Store, production: Produce, monkeypatch: pytest.MonkeyPatch) -> Production:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return production()


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


@pytest.mark.parametrize(("started_from", "start"), [("", None), ("3", 3)])
def test_the_rows_of_the_champion_are_learnt_from_where_it_began_itself(
    started_from: str, start: int | None, read: Read, production: Produce, bundle: Path
) -> None:
    plan = read(warm_start="champion")
    split = json.dumps(plan.split_keys)
    models = SimpleNamespace(
        bundle_path=lambda *_: bundle,
        facts=lambda *_: {"backbone": {"digest": "b"}},
        get=lambda _, number: version(int(number), data_digest="old", split=split),
    )
    champion = version(7, data_digest="d", split=split, **{STARTED_FROM: started_from})
    found, said = first_start(production(plan, stores=SimpleNamespace(models=models)), champion)
    assert (found and found.version, said) == (start, f"training starts from version {start}" if start else "")


@pytest.mark.parametrize(
    ("warm_start", "refresh", "says"),
    [
        ("backbone", False, ""),
        ("backbone", True, "tiny has no champion to refresh yet: all tasks are trained"),
        ("refresh", False, "tiny has no champion to refresh yet: all tasks are trained"),
        ("champion", False, "tiny has no champion to start from yet: all tasks are trained"),
    ],
)
def test_where_there_is_no_champion_to_begin_with_it_is_said(
    warm_start: str, refresh: bool, says: str, read: Read, production: Produce
) -> None:
    file = str(read(warm_start=warm_start).file)
    assert first_start(production(Plan.read(file, refresh=refresh)), None) == (None, says)


@pytest.mark.parametrize(
    ("changed", "mode", "refreshed", "says"),
    [
        (
            ["match"],
            "strength",
            ("match",),
            "refreshed alone, as their rows have changed: match; colour, thing stay as",
        ),
        (["colour", "match", "thing"], "hard", ("colour", "match", "thing"), "have changed: colour, match, thing"),
        ([], "strength", None, "no task has other rows than version 7 learnt from: all are trained"),
        (
            ["match"],
            "soft",
            None,
            "version 7 cannot be refreshed, so all tasks are trained: no task can be refreshed alone",
        ),
    ],
)
def test_a_refresh_teaches_the_tasks_that_have_other_rows_where_tasks_are_apart(
    changed: list[str],
    mode: str,
    refreshed: tuple[str, ...] | None,
    says: str,
    read: Read,
    production: Produce,
    bundle: Path,
    tmp_path: Path,
) -> None:
    plan = replace(read(), refresh=True)
    facts: dict[str, Any] = {"backbone": {"digest": "b"}}
    models = SimpleNamespace(bundle_path=lambda *_: bundle, facts=lambda *_: facts)
    made = production(plan, stores=SimpleNamespace(models=models))
    digests = {name: "old" if name in changed else digest for name, digest in made.task_digests.items()}
    facts["tasks"] = {name: {"digest": digest} for name, digest in digests.items()}
    bundle = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["layers"] = [{**layer, "mode": mode} for layer in manifest["layers"]]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    found, said = first_start(made, version(7, data_digest="old", split=json.dumps(plan.split_keys)))
    assert (found and found.refreshed) == refreshed
    assert says in said


def test_a_task_is_added_to_a_champion_that_differs_in_nothing_else(
    read: Read, production: Produce, bundle: Path, tiny_backbone: Path
) -> None:
    spec = tiny_spec(tiny_backbone)
    tasks = [*spec["tasks"], {**spec["tasks"][2], "name": "new"}]
    models = SimpleNamespace(bundle_path=lambda *_: bundle, facts=lambda *_: {"backbone": {"digest": "b"}})

    def started(plan: Plan) -> tuple[Start | None, str]:
        champion = version(7, split=json.dumps(plan.split_keys))
        return first_start(production(plan, stores=SimpleNamespace(models=models)), champion)

    file = str(read(tasks=tasks).file)
    assert started(Plan.read(file, added="new"))[1] == "training starts from version 7"
    read(tasks=tasks, mta={**spec["mta"], "rank": 8})
    with pytest.raises(AlterError, match="new cannot be added to tiny version 7, which has another mta: `alter run"):
        started(Plan.read(file, added="new"))


def test_a_champion_without_a_task_in_common_is_not_compared(
    read: Read, production: Produce, bundle: Path, tiny_backbone: Path
) -> None:
    first, second, _ = tiny_spec(tiny_backbone)["tasks"]
    stores = SimpleNamespace(models=SimpleNamespace(bundle_path=lambda *_: bundle))
    for tasks, wanted in (([first, {**second, "name": "new"}], str(bundle)), ([{**first, "name": "new"}], None)):
        assert bundle_to_compare(production(read(tasks=tasks), stores=stores), version(1)) == wanted


def test_a_champion_that_carries_no_decision_was_not_cut_off_at_its_end() -> None:
    assert not is_unsettled({"version": 1, "tags": {"run_key": "key"}}, "key")


def test_of_two_versions_of_one_run_key_the_newest_tells_whether_there_is_something_to_do(
    store: Store, parts: Path, made: Production
) -> None:
    key = made.run_key
    store.register(parts, key, facts=card_facts("tiny"))
    store.models.tag("tiny", 1, {SETTLED: "yes", "decision_reason": "there is no champion yet"})
    assert (settled(made) or {})["version"] == 1
    (parts / "bundle.json").write_text('{"weights": "other"}')
    assert store.register(parts, key, facts=card_facts("tiny")) == 2  # and its production was killed
    assert settled(made) is None
    assert not is_unsettled(store.models.get("tiny", 1), key)
    store.models.tag("tiny", 2, {SETTLED: "yes"})
    assert (settled(made) or {})["version"] == 2


def test_a_champion_whose_files_were_deleted_in_mlflow_does_not_end_a_run_and_is_not_unchanged(
    store: Store, parts: Path, made: Production
) -> None:
    store.register(parts, made.run_key)
    store.models.tag("tiny", 1, {SETTLED: "yes", "decision_reason": "there is no champion yet"})
    store.models.set_champion("tiny", 1, None)
    store.models.client.delete_logged_model(store.models.get("tiny", 1)["model_id"])
    champion = store.models.champion("tiny")
    assert "was deleted in MLflow" in made.trouble_with(1)
    assert settled(made) is None
    assert champion_profile(made, champion) is None
    assert bundle_to_compare(made, champion) is None
