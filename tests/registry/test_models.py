"""Registered versions and the aliases that users load."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy.exc import OperationalError

from registry.errors import AliasConflict, RegistryError, RegistryInputError, StoreUnavailable, reported
from registry.models import ModelStore
from registry.packaging import MAX_DESCRIPTION
from registry.registration import LINKED
from registry.retention import plan_removals
from registry.store import domain_lock, open_client, pages
from tests.registry.conftest import EXAMPLE, Store
from tests.registry.facts import card_facts

Parallel = Callable[..., None]


def test_a_registered_version_carries_its_card_tags_run_and_files(store: Store, parts: Path) -> None:
    version = store.register(parts, "k1", card="# tiny\n\nSmall.", tags={"macro": 0.25, "quality": "ok"})
    (row,) = store.models.versions("tiny")
    assert (row["version"], row["macro"], row["description"]) == (version, 0.25, "# tiny\n\nSmall.")
    assert row["tags"]["quality"] == "ok"
    assert row["tags"]["run_key"] == "k1"
    assert store.models.client.get_run(row["run_id"]).data.tags["alter.version"] == "tiny 1"
    bundle = store.models.bundle_path("tiny", 1)
    assert {file.name for file in bundle.iterdir()} == {"bundle.json", "mta.safetensors"}


def test_a_store_is_not_made_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryInputError, match=r"there is no folder .*gone for the MLflow store x\.db; make it"):
        open_client(f"sqlite:///{tmp_path}/gone/x.db")
    assert not (tmp_path / "gone").exists()


def test_a_store_is_not_opened_while_another_process_makes_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.store.LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / ".mlflow.db.lock"):  # another holder, be it of this process or not
        with pytest.raises(StoreUnavailable, match=r"mlflow\.db is being made or migrated by another process.*wait"):
            open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_folder_or_a_file_that_is_no_database_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("hello" * 500)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RegistryError, match=r"notes\.db answers: file is not a database; check that it is MLflow's"):
        open_client(f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(RegistryInputError, match=r"folder is a folder, and an MLflow store is a file; name a file in"):
        open_client(f"sqlite:///{tmp_path}/folder")


@pytest.mark.parametrize(("scheme", "driver"), [("postgresql", "psycopg2"), ("mysql", "MySQLdb")])
def test_a_database_without_its_driver_is_told(scheme: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, driver, None)  # as if it was not there, wherever it is
    with pytest.raises(RegistryInputError, match=rf"needs .* {driver}, .*postgresql\+psycopg://.*`postgres`") as caught:
        open_client(f"{scheme}://me:s3cret@127.0.0.1:1/mlflow")
    assert "s3cret" not in str(caught.value)


def test_a_busy_database_may_be_asked_again() -> None:
    with pytest.raises(StoreUnavailable, match=r"busy: database is locked; check that it runs, then try again"):
        with reported("look", "sqlite:///x.db"):
            raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))


def test_signature_example_and_pins_are_stored(store: Store, parts: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "alter_factory-0.1.0+abc-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    store.register(parts, "k1", example=EXAMPLE, requirements=["mlflow==3.17.2", "numpy==2.4.6"], code_wheel=wheel)
    model = store.models.bundle_path("tiny", 1).parent.parent
    assert (model / "requirements.txt").read_text().split() == [
        "mlflow==3.17.2",
        "numpy==2.4.6",
        f"artifacts/code/{wheel.name}",
    ]
    assert (model / "artifacts" / "code" / wheel.name).exists()
    assert json.loads((model / "input_example.json").read_text())["data"] == [list(EXAMPLE.values())]
    from mlflow.models import Model

    signature = Model.load(str(model)).signature
    assert signature.inputs.input_names() == ["task", "input"]
    assert signature.outputs.input_names() == ["prediction", "score", "truncated", "abstain"]


def test_metrics_are_bound_to_the_model(store: Store, parts: Path) -> None:
    store.register(parts, "k1", metrics={"test.colour.accuracy": 0.75})
    (row,) = store.models.versions("tiny")
    assert store.models.client.get_run(row["run_id"]).data.metrics == {"test.colour.accuracy": 0.75}
    (bound,) = store.models.logged_model(row).metrics
    assert (bound.key, bound.value) == ("test.colour.accuracy", 0.75)


def test_a_request_that_was_sent_twice_leaves_one_version(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's client asks again when a server goes away before it has answered; the server may have done it."""
    once = store.models.client.create_model_version
    monkeypatch.setattr(store.models.client, "create_model_version", lambda *a, **k: (once(*a, **k), once(*a, **k))[1])
    assert store.register(parts, "key") == 1
    assert [row["version"] for row in store.models.versions("tiny")] == [1]


def test_a_registration_killed_before_its_last_step_is_mended_by_the_next(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "_link", killed)
        with pytest.raises(KeyboardInterrupt):
            store.register(parts, "key")
    assert store.register(parts, "key", metrics={"macro": 0.5}) == 1
    version = store.models.get("tiny", 1)
    assert "alter.version" in store.models.client.get_run(version["run_id"]).data.tags
    assert [metric.value for metric in store.models.logged_model(version).metrics] == [0.5]


WRITES = (
    "create_registered_model",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_model_version",
    "set_logged_model_tags",
    "log_outputs",
    "log_batch",
    "set_tag",
    "update_model_version",
)


@pytest.mark.parametrize("call", WRITES)
def test_a_registration_killed_after_any_of_its_writes_is_mended_by_the_next(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write = getattr(store.models.client, call)

    def killed(*arguments: object, **more: object) -> None:
        write(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.models.client, call, killed)
        with pytest.raises(KeyboardInterrupt):
            store.register(parts, "key", metrics={"macro": 0.5})
    version = store.register(parts, "key", metrics={"macro": 0.5})
    found = store.models.get("tiny", version)
    assert store.models.bundle_path("tiny", version).is_dir()
    assert "alter.version" in store.models.client.get_run(found["run_id"]).data.tags
    assert len(store.models.versions("tiny")) == 1


def test_a_lock_is_left_behind_where_its_owner_stays_the_same_for_long_by_our_own_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.models.client.create_registered_model("alter-lock-tiny", tags={"owner": "dead"})
    monkeypatch.setattr("registry.store.LOCK_SECONDS", 0.5)
    monkeypatch.setattr("time.time", lambda: 4e9)  # a clock far ahead of the server's
    with pytest.raises(StoreUnavailable):
        with domain_lock(store.models.client, "http://a-server", "tiny", timeout=0.2):
            pytest.fail("the lock was not held")
    with domain_lock(store.models.client, "http://a-server", "tiny", timeout=5):
        assert store.models.client.get_registered_model("alter-lock-tiny").tags["owner"] != "dead"


def test_a_lock_that_only_another_account_may_drop_is_named_when_time_is_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_name: str) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    store.models.client.create_registered_model("alter-lock-tiny", tags={"owner": "dead"})
    monkeypatch.setattr("registry.store.LOCK_SECONDS", 0.1)
    monkeypatch.setattr(store.models.client, "delete_registered_model", refused)
    with pytest.raises(StoreUnavailable, match="delete the registered model alter-lock-tiny"):
        with domain_lock(store.models.client, "http://a-server", "tiny", timeout=1):
            pytest.fail("the lock was not held")


def test_no_message_holds_a_password() -> None:
    with pytest.raises(StoreUnavailable) as caught, reported("look", "http://factory:s3cret@127.0.0.1:9"):
        raise MlflowException("connection refused by http://factory:s3cret@127.0.0.1:9/api")
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).count("http://127.0.0.1:9") == 2


def test_a_lock_that_was_asked_for_twice_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    once = store.models.client.create_registered_model

    def twice(*arguments: object, **more: object) -> object:
        once(*arguments, **more)
        return once(*arguments, **more)  # the server says that the name is taken: by us

    monkeypatch.setattr(store.models.client, "create_registered_model", twice)
    with domain_lock(store.models.client, "http://a-server", "tiny", timeout=0.2):
        assert store.models.client.get_registered_model("alter-lock-tiny")
    assert store.models.domains() == []


def test_one_run_key_has_one_version(store: Store, parts: Path) -> None:
    assert store.register(parts, "same", metrics={"macro": 0.5}) == 1
    assert store.register(parts, "other", metrics={"macro": 0.5}) == 2
    assert store.register(parts, "same", metrics={"macro": 0.5}) == 1
    assert [row["version"] for row in store.models.versions("tiny")] == [2, 1]
    runs = store.models.client.search_runs([store.models.client.get_experiment_by_name("tiny").experiment_id])
    assert sorted(run.data.tags[LINKED] for run in runs) == ["tiny 1", "tiny 1", "tiny 2"]
    assert all(run.data.metrics for run in runs)


def test_a_run_key_that_ends_in_another_bundle_has_another_version(
    store: Store, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm start from another champion, or a training that does not repeat to the bit."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "bundle.json").write_text('{"weights": "other"}')
    once = store.models.client.create_model_version
    assert store.register(parts, "same") == 1
    monkeypatch.setattr(store.models.client, "create_model_version", lambda *a, **k: (once(*a, **k), once(*a, **k))[1])
    assert store.register(other, "same", tags={"macro": 0.75}) == 2  # asked for twice, as above, and made once
    assert [store.register(bundle, "same") for bundle in (parts, other)] == [1, 2]
    assert [(row["version"], row["macro"]) for row in store.models.versions("tiny")] == [(2, 0.75), (1, 0.5)]
    for number, bundle in enumerate((parts, other), start=1):
        stored = store.models.bundle_path("tiny", number)
        assert (stored / "bundle.json").read_text() == (bundle / "bundle.json").read_text()


def test_a_registration_that_fails_leaves_no_version(store: Store, parts: Path, tmp_path: Path) -> None:
    with pytest.raises((RegistryError, OSError)):
        store.register(parts, "k1", code_wheel=tmp_path / "missing.whl")
    with pytest.raises(
        RegistryInputError, match=r"no version of 'tiny' is registered \(registered: none yet\).*makes one"
    ):
        store.models.versions("tiny")
    assert store.models.versions() == []  # the other domains' versions would still be there
    (left,) = plan_removals(store.models)
    assert left.reason == "its registration was never finished"
    assert store.register(parts, "k1") == 1


def test_a_card_longer_than_a_description_is_cut_at_a_line_and_kept_whole_in_the_model(
    store: Store, parts: Path
) -> None:
    card = "# tiny\n" + "one line of text\n" * 1000
    store.register(parts, "k1", card=card)
    (row,) = store.models.versions("tiny")
    assert len(row["description"]) <= MAX_DESCRIPTION
    assert row["description"].rstrip().endswith("of the model.)*")
    assert (store.models.bundle_path("tiny", 1).parent.parent / "card.md").read_text() == card


def test_facts_come_back_as_they_were(store: Store, parts: Path) -> None:
    facts = card_facts()
    store.register(parts, "k1", facts=facts)
    store.register(parts, "k2")
    assert store.models.facts("tiny", 1) == facts
    with pytest.raises(RegistryInputError, match="version 2 was registered without its facts"):
        store.models.facts("tiny", 2)


def test_champion_is_an_alias_that_moves(store: Store, parts: Path) -> None:
    assert store.models.alias("tiny", "champion") is None
    store.register(parts, "k1")
    store.register(parts, "k2")
    store.models.set_champion("tiny", 1, None)
    store.models.set_challenger("tiny", 2)
    assert store.models.get("tiny", "challenger")["version"] == 2
    store.models.set_champion("tiny", 2, 1)
    champion = store.models.alias("tiny", "champion")
    assert champion
    assert champion["version"] == 2
    assert champion["aliases"] == ["champion"]  # no longer its own challenger


def test_a_challenger_that_is_older_than_the_new_champion_waits_no_longer(store: Store, parts: Path) -> None:
    for key in ("k1", "k2", "k3"):
        store.register(parts, key)
    store.models.set_challenger("tiny", 3)
    store.models.set_champion("tiny", 1, None)
    assert store.models.get("tiny", 3)["aliases"] == ["challenger"]
    store.models.set_challenger("tiny", 2)
    store.models.set_champion("tiny", 3, 1)
    assert store.models.alias("tiny", "challenger") is None


def test_a_champion_that_changed_in_between_is_not_overwritten(store: Store, parts: Path) -> None:
    for key in ("k1", "k2", "k3"):
        store.register(parts, key)
    store.models.set_champion("tiny", 1, None)
    store.models.set_champion("tiny", 2, 1)
    with pytest.raises(AliasConflict, match=r"compared with champion 1, but the champion is 2 by now.*alter promote"):
        store.models.set_champion("tiny", 3, 1)
    assert store.models.get("tiny", "champion")["version"] == 2


def test_promoting_the_champion_again_changes_nothing(store: Store, parts: Path) -> None:
    store.register(parts, "k1")
    store.models.set_champion("tiny", 1, None)
    store.models.set_champion("tiny", 1, None)
    with pytest.raises(RegistryInputError, match="no earlier champion"):
        store.models.rollback("tiny")


def test_rollback_goes_back_one_champion_at_a_time(store: Store, parts: Path) -> None:
    for number, key in enumerate(("k1", "k2", "k3"), start=1):
        store.register(parts, key)
        store.models.set_champion("tiny", number, number - 1 or None)
    assert store.models.rollback("tiny") == (3, 2)
    assert store.models.rollback("tiny") == (2, 1)
    with pytest.raises(RegistryInputError, match=r"no earlier champion to go back to; `alter promote tiny VERSION`"):
        store.models.rollback("tiny")
    assert "rolled_back" in store.models.get("tiny", 3)["tags"]


FINISH = """
import json, sys
from pathlib import Path
from registry.errors import AliasConflict
from registry.models import ModelStore
from registry.tracking import Tracker

uri, artifacts, parts, key = sys.argv[1:]
store, tracker, conflicts = ModelStore(uri), Tracker(uri, artifacts, "tiny"), []
seen = store.alias("tiny", "champion")  # every one of them decides against the same champion
print("ready", flush=True)
sys.stdin.readline()
run = tracker.start_run(key, {}, {})
version = store.register("tiny", run, Path(parts), run_key=key, card="# tiny")
while True:
    try:
        store.set_champion("tiny", version, seen and seen["version"])
        break
    except AliasConflict as error:
        conflicts.append(error.transient)
        seen = store.alias("tiny", "champion")
print(json.dumps([version, conflicts]))
"""


def test_two_processes_that_finish_at_once_lose_neither_version_nor_champion(store: Store, parts: Path) -> None:
    """Each promotes against the champion that it saw; the one that comes second is told, and decides again."""
    store.tracker()
    start = [sys.executable, "-c", FINISH, store.uri, str(store.folder / "artifacts"), str(parts)]
    processes = [
        subprocess.Popen([*start, key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for key in ("k1", "k2")
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert sorted(version for version, _ in ended) == [1, 2]
    (told,) = [conflicts for _, conflicts in ended if conflicts]
    assert told == [False]  # no retry of the same call could help
    last = store.models.get("tiny", "champion")["version"]
    assert store.models.rollback("tiny") == (last, 3 - last)


def test_a_promotion_killed_before_it_moved_the_alias_does_not_end_rollback(store: Store, parts: Path) -> None:
    for number, key in enumerate(("k1", "k2"), start=1):
        store.register(parts, key)
        store.models.set_champion("tiny", number, number - 1 or None)
    store.models.client.set_registered_model_tag("tiny", "champion_history", "1,2")  # what the kill leaves
    assert store.models.rollback("tiny") == (2, 1)


def test_the_same_run_registered_twice_at_once_is_one_version(store: Store, parts: Path, parallel: Parallel) -> None:
    store.tracker()  # the experiment is there, as it is when a flow registers
    parallel(*[lambda: store.register(parts, "same") for _ in range(4)])
    assert [row["version"] for row in store.models.versions("tiny")] == [1]


def test_a_process_that_holds_the_lock_is_waited_for_and_then_named(store: Store) -> None:
    code = (
        "import sys; from registry.store import open_client, domain_lock\n"
        f"with domain_lock(open_client({store.uri!r}), {store.uri!r}, 'tiny'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreUnavailable, match="tiny is being registered or promoted by another process"):
            with domain_lock(store.models.client, store.uri, "tiny", timeout=0.2):
                pytest.fail("the lock was not held")
    finally:
        holder.communicate("", timeout=20)
    with domain_lock(store.models.client, store.uri, "tiny", timeout=5):
        pass


def test_an_unknown_version_domain_or_alias_names_what_there_is(store: Store, parts: Path) -> None:
    store.register(parts, "k1")
    store.models.set_champion("tiny", 1, None)
    with pytest.raises(RegistryInputError, match=r"tiny has no version or alias 7; it has 1 \(champion\)"):
        store.models.bundle_path("tiny", 7)
    with pytest.raises(RegistryInputError, match="tiny has no version or alias 'best'"):
        store.models.get("tiny", "best")
    with pytest.raises(RegistryInputError, match=r"no version of 'tinny' is registered \(registered: tiny\)") as caught:
        store.models.get("tinny", "champion")
    assert caught.value.exit_code == 2


def test_a_version_whose_files_are_gone_is_reported(store: Store, parts: Path) -> None:
    import shutil

    store.register(parts, "k1")
    shutil.rmtree(store.models.bundle_path("tiny", 1))
    with pytest.raises(RegistryError, match=r"tiny version 1 is registered, but its bundle is not at .*restore"):
        store.models.bundle_path("tiny", 1)


def test_domains_and_versions_of_all(store: Store, parts: Path) -> None:
    store.register(parts, "k1", domain="b")
    store.register(parts, "k1", domain="a")
    store.register(parts, "k2", domain="a")
    assert store.models.domains() == ["a", "b"]
    assert [(row["name"], row["version"]) for row in store.models.versions()] == [("a", 2), ("a", 1), ("b", 1)]


@pytest.mark.parametrize("move", ["set_champion", "set_challenger", "rollback"])
def test_aliases_move_under_the_models_lock(move: str, store: Store, parts: Path) -> None:
    for number in (1, 2, 3):
        store.register(parts, f"k{number}")
    store.models.set_champion("tiny", 1, None)
    store.models.set_champion("tiny", 2, 1)
    given = {"set_champion": ("tiny", 3, 2), "set_challenger": ("tiny", 3), "rollback": ("tiny",)}[move]

    def aliases() -> list[tuple[int, list[str]]]:
        return [(row["version"], row["aliases"]) for row in ModelStore(store.uri).versions("tiny")]

    before = aliases()
    moving = threading.Thread(target=getattr(store.models, move), args=given)
    with FileLock(store.folder / ".tiny.lock", is_singleton=False):
        moving.start()
        moving.join(2)
        assert aliases() == before
    moving.join(60)
    assert aliases() != before


def test_of_many_champions_the_newest_are_remembered(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.champions.LENGTH", 2)
    for number in range(1, 5):
        store.register(parts, f"k{number}")
        store.models.set_champion("tiny", number, number - 1 or None)
    assert store.models.earlier_champions("tiny") == [2, 3]


def test_a_promotion_that_is_killed_before_the_history_is_written_moves_no_alias(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (1, 2, 3):
        store.register(parts, f"k{number}")
    store.models.set_champion("tiny", 1, None)
    store.models.set_champion("tiny", 2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(store.models.client, "set_registered_model_tag", killed)
        with pytest.raises(KeyboardInterrupt):
            store.models.set_champion("tiny", 3, 2)
    now = store.models.alias("tiny", "champion")
    assert now
    assert now["version"] == 2
    assert store.models.earlier_champions("tiny") == [1]


def test_a_run_has_the_card_of_its_version_and_the_model_its_newest_description(store: Store, parts: Path) -> None:
    store.register(parts, "k1", card="# one", description="was")
    store.register(parts, "k2", card="# two", description="is")
    client, row = store.models.client, store.models.get("tiny", 2)
    assert client.get_run(row["run_id"]).data.tags["mlflow.note.content"] == "# two"
    assert client.get_registered_model("tiny").description == "is"


def test_a_lock_on_a_server_is_dropped_at_its_end(store: Store) -> None:
    client = store.models.client
    with domain_lock(client, "http://a-server", "tiny", timeout=1):
        assert client.get_registered_model("alter-lock-tiny")
    with pytest.raises(MlflowException):
        client.get_registered_model("alter-lock-tiny")


def test_a_lock_on_a_server_that_another_has_taken_over_stays(store: Store) -> None:
    client = store.models.client
    with domain_lock(client, "http://a-server", "tiny", timeout=1):
        client.delete_registered_model("alter-lock-tiny")  # somebody found it too old
        client.create_registered_model("alter-lock-tiny", tags={"owner": "another"})
    assert client.get_registered_model("alter-lock-tiny").tags["owner"] == "another"


def test_a_store_that_refuses_is_not_one_without_a_champion(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    store.register(parts, "k1")
    monkeypatch.setattr(store.models.client, "get_model_version_by_alias", refused)
    with pytest.raises(RegistryError, match="refuses"):
        store.models.alias("tiny", "champion")


def test_all_pages_of_an_answer_are_read() -> None:
    class Page(list[int]):
        token: str | None = None

    first, second = Page([1]), Page([2])
    first.token = "more"
    assert pages(lambda token: second if token == "more" else first) == [1, 2]
