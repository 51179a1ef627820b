"""What may be deleted, and what never is."""

import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from alter_core.workspace import Workspace
from registry.errors import RegistryInputError
from registry.retention import plan_removals, remove
from tests.command_line import caller
from tests.registry.conftest import Store


@pytest.fixture
def five(store: Store, parts: Path) -> Store:
    """Versions 1 to 5; champions were 1, 2, then 3; 4 is challenger."""
    for number in range(1, 6):
        store.register(parts, f"k{number}")
    for number in (1, 2, 3):
        store.models.set_champion("tiny", number, number - 1 or None)
    store.models.set_challenger("tiny", 4)
    return store


def test_a_plan_names_old_versions_and_deletes_nothing(five: Store) -> None:
    plan = plan_removals(five.models, keep=1)
    assert [(item.domain, item.version) for item in plan] == [("tiny", 1)]
    assert plan[0].bytes > 64
    assert plan[0].reason == "older than the newest 1"
    assert len(five.models.versions("tiny")) == 5


def test_an_aliased_version_and_the_one_that_a_rollback_needs_are_never_in_a_plan(five: Store) -> None:
    assert [item.version for item in plan_removals(five.models, keep=0)] == [1, 5]


def test_removing_frees_the_files_and_keeps_the_rest(five: Store) -> None:
    folder = five.models.bundle_path("tiny", 1).parent.parent.parent
    plan = plan_removals(five.models, keep=1)
    assert remove(five.models, plan) == plan[0].bytes
    assert not folder.exists()
    assert [row["version"] for row in five.models.versions("tiny")] == [5, 4, 3, 2]
    assert five.models.bundle_path("tiny", "champion").is_dir()
    assert five.models.rollback("tiny") == (3, 2)
    assert plan_removals(five.models, keep=3) == []


def test_a_version_that_got_an_alias_after_the_plan_stays(five: Store) -> None:
    plan = plan_removals(five.models, keep=0)
    five.models.set_champion("tiny", 5, 3)
    remove(five.models, plan)
    assert five.models.get("tiny", "champion")["version"] == 5
    assert five.models.bundle_path("tiny", 5).is_dir()


def test_a_model_whose_registration_broke_off_is_found(five: Store, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing\.whl"):
        five.register(parts, "k9", code_wheel=tmp_path / "missing.whl")
    (item,) = plan_removals(five.models, keep=5)
    assert (item.version, item.reason) == (None, "its registration was never finished")
    remove(five.models, [item])
    assert plan_removals(five.models, keep=5) == []


def test_a_model_on_its_way_to_the_store_is_left_alone(five: Store) -> None:
    client, run = five.models.client, five.models.get("tiny", 1)["run_id"]
    experiment = client.get_run(run).info.experiment_id
    client.create_logged_model(experiment, name="tiny", source_run_id=run, model_type="alter")
    assert plan_removals(five.models, keep=5) == []


def test_what_others_registered_in_the_store_is_never_in_a_plan(five: Store) -> None:
    client, run = five.models.client, five.models.get("tiny", 1)["run_id"]
    model = client.create_logged_model(client.get_run(run).info.experiment_id, name="churn", source_run_id=run)
    client.finalize_logged_model(model.model_id, "FAILED")
    client.create_registered_model("churn")
    client.create_model_version("churn", source=model.artifact_location, run_id=run)
    assert "churn" in five.models.domains()
    assert {item.domain for item in plan_removals(five.models, keep=0)} == {"tiny"}


def test_the_version_that_training_of_a_kept_one_went_on_from_stays(five: Store) -> None:
    five.models.tag("tiny", 3, {"started_from": 1})
    assert [item.version for item in plan_removals(five.models, keep=0)] == [5]


def test_a_half_done_promotion_does_not_hide_the_champion_before(five: Store) -> None:
    five.models.client.set_registered_model_tag("tiny", "champion_history", "1,2,3")  # what the kill leaves
    assert [item.version for item in plan_removals(five.models, keep=0)] == [1, 5]


def test_a_model_that_a_person_deleted_in_mlflow_hinders_nothing(five: Store, parts: Path) -> None:
    client = five.models.client
    client.delete_logged_model(five.models.get("tiny", 1)["model_id"])
    for key in ("k1", "k2"):
        five.register(parts, key, domain="zoo")
    plan = plan_removals(five.models, keep=1)
    assert [(item.domain, item.version) for item in plan] == [("tiny", 1), ("zoo", 1)]
    assert plan[0].bytes == 0
    client.delete_logged_model(plan[1].model_id)  # after the plan
    assert remove(five.models, plan) == 0
    assert plan_removals(five.models, keep=1) == []
    assert [row["version"] for row in five.models.versions("tiny")] == [5, 4, 3, 2]


def test_a_version_that_a_person_deleted_after_the_plan_hinders_nothing(five: Store) -> None:
    plan = plan_removals(five.models, keep=1)
    five.models.client.delete_model_version("tiny", "1")
    assert remove(five.models, plan) == plan[0].bytes
    assert plan_removals(five.models, keep=1) == []


def test_keep_must_not_be_negative(five: Store) -> None:
    with pytest.raises(RegistryInputError, match="keep must be 0 or more"):
        plan_removals(five.models, keep=-1)


def test_a_model_that_may_still_be_in_the_making_is_left_for_a_day(
    five: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run = five.models.client, five.models.get("tiny", 1)["run_id"]
    experiment = client.get_run(run).info.experiment_id
    client.create_logged_model(experiment, name="tiny", source_run_id=run, model_type="alter")
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 23 * 3600)
    assert plan_removals(five.models, keep=9) == []
    monkeypatch.setattr("time.time", lambda: now + 25 * 3600)
    assert len(plan_removals(five.models, keep=9)) == 1


def test_versions_are_removed_under_the_models_lock(five: Store) -> None:
    plan = plan_removals(five.models, keep=0)
    assert plan
    removing = threading.Thread(target=remove, args=(five.models, plan))
    with FileLock(five.folder / ".tiny.lock", is_singleton=False):
        removing.start()
        removing.join(2)
        assert len(five.models.versions("tiny")) == 5
    removing.join(60)
    assert len(five.models.versions("tiny")) == 5 - len(plan)


def test_the_command_removes_nothing_without_yes(
    five: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALTER_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", five.uri)
    alter = caller(monkeypatch, capsys)
    cache = Workspace(tmp_path).datasets / "a"
    cache.mkdir(parents=True)
    (cache / "part").write_bytes(b"x")
    os.utime(cache / "part", (0, 0))

    def left() -> list[int]:
        return [row["version"] for row in five.models.versions("tiny")]

    kept = left()
    code, out, _ = alter("gc", "--keep", "1")
    assert (code, left(), cache.exists()) == (0, kept, True)
    assert "tiny version 1: older than the newest 1" in out
    assert "nothing was removed; add --yes" in out
    assert alter("gc", "--keep", "4", "--yes", "--days", "1e9")[0] == 0
    assert (left(), cache.exists()) == ([5, 4, 3, 2], True)
    assert alter("gc", "--keep", "4", "--yes")[0] == 0
    assert not cache.exists()
