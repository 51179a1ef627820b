"""Versions that an earlier release made: an unchanged domain is not made anew for the code alone."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock

from alter_core.backbone import resolve_backbone
from alter_core.data.ingest import ingest
from alter_core.spec import DomainSpec
from flows.production import earlier_release
from flows.production.earlier import first_start, settled
from flows.production.plan import Plan
from flows.production.production import Backbone, Production, Rows
from flows.production.stores import Stores
from flows.production.unchanged import unchanged
from registry.models import ModelStore
from tests.command_line import caller
from tests.flows.production.test_orphans import orphan
from tests.registry.old import Old, unpacked

Produce = Callable[..., Production]


def write_out(old: Old, **changes: Any) -> str:
    """Write the domain's spec with all that its champion's says, so that it relies on no default; its path.

    Defaults are others now, and the spec as it was written then means something else.
    """
    spec = ModelStore(old.uri).recorded("tiny", 2)["spec"]
    del spec["mta"]["width"]
    file = old.domain / "domain.yaml"
    file.write_text(yaml.safe_dump({**spec, **changes}), encoding="utf-8")
    return str(file)


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return unpacked("c66842c", tmp_path / "old")


@pytest.fixture
def production(old: Old, monkeypatch: pytest.MonkeyPatch) -> Produce:
    """A function that gives a production of the old workspace's domain: a spec that differs by `changes`, the rows and
    the backbone that its champion was made of."""
    monkeypatch.setenv("ALTER_HOME", str(old.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(added: str | None = None, **changes: Any) -> Production:
        plan = Plan.read(write_out(old, **changes), None, added)
        facts = ModelStore(old.uri).facts("tiny", 2)
        backbone, labels = facts["backbone"], {"colour": ("red", "green", "blue"), "match": ("no", "yes")}
        return Production(
            plan,
            Stores(plan.workspace, "tiny"),
            Backbone(old.domain, backbone["model"], None, backbone["digest"], backbone["parameters"]),
            Rows(old.domain, facts["data"]["digest"], labels, {}),
        )

    return make


@pytest.fixture
def at_hand(old: Old, monkeypatch: pytest.MonkeyPatch) -> str:
    """The domain of the old workspace, its backbone converted and its rows read as any run of today leaves them."""
    monkeypatch.setenv("ALTER_HOME", str(old.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plan = Plan.read(write_out(old))
    resolve_backbone(plan.spec.backbone, plan.workspace, base=plan.folder)
    ingest(plan.spec, plan.folder, plan.workspace)
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    plan.lock_file.touch()
    return str(plan.file)


def test_an_unchanged_domain_is_not_made_anew_and_the_run_says_why_without_a_server(
    at_hand: str, old: Old, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.many.produce_here", None)  # which starts the engine
    code, out, err = caller(monkeypatch, capsys)("run", at_hand, "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert (outcome["status"], outcome["version"], outcome["aliases"]) == ("unchanged", 2, ["champion"])
    assert "which an earlier release made" in err
    assert "--force" in err
    assert len(ModelStore(old.uri).versions("tiny")) == 2


def test_an_unchanged_run_stops_the_server_of_a_killed_one(at_hand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(Path(at_hand).parent / "prefect"))
    monkeypatch.setenv("PREFECT__SERVER_EPHEMERAL", "1")
    server = psutil.Process(orphan(dict(os.environ)))
    assert unchanged(Plan.read(at_hand))
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_only_the_flow_tells_whether_something_has_changed_after_a_run_that_was_killed_and_beside_one(
    at_hand: str,
) -> None:
    plan = Plan.read(at_hand)
    assert unchanged(plan)
    plan.open_mark.touch()
    assert unchanged(plan) is None
    plan.open_mark.unlink()
    with FileLock(plan.lock_file):
        assert unchanged(plan) is None
    (plan.folder / "colour.jsonl").open("a").write('{"input": "the red ball", "target": "red"}\n')
    assert unchanged(plan) is None


def test_the_version_of_the_same_spec_is_found(production: Produce) -> None:
    assert (settled(production()) or {})["version"] == 2
    spec = production().plan.spec.model_dump(mode="json")
    before = settled(production(stage_two={**spec["stage_two"], "steps": 3}))
    assert (before or {})["version"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"precision": "auto"},
        {"stage_two": None},
        {"mta": {"layers": "all", "adapter": "lora", "rank": 4, "shared_adapters": 1, "shared_adapter": "ffn"}},
        {"evaluation": {"max_rows": 5}},
        {"promotion": {"max_task_drop": 0.5}},
        {"added": "thing"},
    ],
)
def test_another_spec_is_not_that_of_a_version(changes: dict[str, Any], production: Produce) -> None:
    assert settled(production(**changes)) is None


def test_a_spec_that_relied_on_defaults_which_are_others_now_is_another_one(production: Produce, old: Old) -> None:
    written = (old.domain / "domain.yaml").read_text(encoding="utf-8")
    same = production()
    (old.domain / "domain.yaml").write_text(written, encoding="utf-8")
    plan = Plan.read(str(old.domain))
    assert plan.spec.mta != same.plan.spec.mta
    assert settled(replace(same, plan=plan)) is None


def test_a_schedule_makes_no_other_version(production: Produce) -> None:
    changed = production(schedule={"cron": "0 3 * * 1", "timezone": "Europe/Berlin"}, description="Said otherwise.")
    assert (settled(changed) or {})["version"] == 2


def test_other_rows_labels_or_backbone_are_not_those_of_a_version(production: Produce) -> None:
    same = production()
    labels = {**same.rows.labels, "match": ("yes", "no")}
    assert settled(replace(same, rows=replace(same.rows, digest="other"))) is None
    assert settled(replace(same, rows=replace(same.rows, labels=labels))) is None
    assert settled(replace(same, backbone=replace(same.backbone, digest="other"))) is None


def test_a_version_of_another_release_is_known_by_its_key_alone(production: Produce) -> None:
    same = production()
    for row in same.stores.models.versions("tiny"):
        same.stores.models.tag("tiny", row["version"], {"code": "another"})
    assert settled(same) is None


def test_a_version_whose_files_are_gone_is_not_taken_for_the_same(production: Produce, old: Old) -> None:
    same = production()
    for files in (old.home / "mlflow" / "artifacts" / "models").iterdir():
        shutil.rmtree(files)
    assert settled(same) is None


def test_training_goes_on_from_an_earlier_release_s_champion(production: Produce) -> None:
    changed = production(warm_start="champion")
    champion = changed.stores.models.get("tiny", "champion")
    start, said = first_start(replace(changed, rows=replace(changed.rows, digest="other")), champion)
    assert start is not None
    assert (start.version, said) == (2, "training starts from version 2")


@pytest.fixture
def recorded(old: Old) -> dict[str, Any]:
    """The spec that the old champion's bundle carries."""
    spec: dict[str, Any] = ModelStore(old.uri).recorded("tiny", 2)["spec"]
    return spec


def test_no_default_of_today_stands_in_an_earlier_spec(recorded: dict[str, Any]) -> None:
    spec = earlier_release.as_read_today(recorded)
    assert spec is not None
    for section, setting in earlier_release.DECIDED_NOTHING:
        recorded[section].pop(setting)
    assert spec.model_dump(mode="json", exclude_unset=True) == recorded


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [("mta", "girth", 3), ("mta", "adapter", "bottleneck"), ("stage_one", "unheard_of", None), ("mta", "rank", "wide")],
)
def test_a_spec_that_cannot_be_said_today_is_another_one(
    section: str, setting: str, value: Any, recorded: dict[str, Any]
) -> None:
    assert earlier_release.as_read_today({**recorded, section: {**recorded[section], setting: value}}) is None


def test_a_setting_that_is_new_since_has_its_default(recorded: dict[str, Any]) -> None:
    del recorded["warm_start"]
    spec = earlier_release.as_read_today(recorded)
    assert spec is not None
    assert spec.warm_start == DomainSpec.model_fields["warm_start"].default
