"""MLflow's own doors are used by others: what they move, delete, rename or register hinders no command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.champions import Champion, champions, written
from registry.errors import RegistryError, RegistryInputError
from registry.models import ModelStore
from registry.retention import plan_removals, remove
from registry.tracking import Tracker
from tests.command_line import caller
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

NAMES = (
    "o'brien",
    'say "hi"',
    """it's "both\"""",
    "100%",
    "a b",
    "Zürich",
    "模型",
    "back\\slash",
    "x; DROP TABLE runs",
    "_",
    "name = 'tiny'",
    "[brackets](and)#marks?",
)


@pytest.fixture(scope="module")
def made(bundle: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Versions 1 to 4 of `tiny` that answer; champions were 1, 2, then 3."""
    store = Store(tmp_path_factory.mktemp("made") / "mlflow", empty_store)
    for number in (1, 2, 3, 4):
        tags = {"macro": 0.5, "decision_reason": "x"}
        store.register(bundle, f"k{number}", facts=card_facts("tiny"), tags=tags)
    for number in (1, 2, 3):
        store.models.set_champion("tiny", number, number - 1 or None)
    return store.folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> ModelStore:
    shutil.copytree(made, tmp_path / "mlflow")
    return ModelStore(f"sqlite:///{tmp_path}/mlflow/mlflow.db")


def run_of(store: ModelStore, version: int) -> str:
    return str(store.get("tiny", version)["run_id"])


def run_deleted(store: ModelStore) -> None:
    store.client.delete_run(run_of(store, 3))


def runs_gone(store: ModelStore) -> None:
    """As `mlflow gc` removes them."""
    for version in (1, 2, 3, 4):
        store.client.delete_run(run_of(store, version))
        store.client._tracking_client.store._hard_delete_run(run_of(store, version))


def experiment_deleted(store: ModelStore) -> None:
    store.client.delete_experiment(store.client.get_experiment_by_name("tiny").experiment_id)


def experiment_renamed(store: ModelStore) -> None:
    store.client.rename_experiment(store.client.get_experiment_by_name("tiny").experiment_id, "tiny, last year's")


def experiment_of_another(store: ModelStore) -> None:
    """Whose runs have none of our tags, and one of whose models has our name."""
    experiment_renamed(store)
    folder = Path(store.tracking_uri.removeprefix("sqlite:///")).parent
    experiment = store.client.create_experiment("tiny", str(folder / "artifacts" / "9"))  # as `alter ui` places it
    run = store.client.create_run(experiment).info.run_id
    store.client.create_logged_model(experiment, name="tiny", source_run_id=run, model_type="sklearn")


def old_model_deleted(store: ModelStore) -> None:
    store.client.delete_logged_model(store.get("tiny", 4)["model_id"])


def old_model_gone(store: ModelStore) -> None:
    """As `mlflow gc` removes it."""
    model_id = store.get("tiny", 4)["model_id"]
    store.client.delete_logged_model(model_id)
    store.client._tracking_client.store._hard_delete_logged_model(model_id)


def version_deleted(store: ModelStore) -> None:
    store.client.delete_model_version("tiny", "4")


def names_of_others(store: ModelStore) -> None:
    for name in NAMES:
        store.client.create_registered_model(name, tags={"champions": "x"})
        for tags in ({}, {"macro": "nan", "run_key": "ours?", "model_id": "none"}, {"macro": "best", "split": "["}):
            store.client.create_model_version(name, "s3://bucket/model", tags=tags)
        store.client.set_registered_model_alias(name, "champion", "1")


def version_of_another(store: ModelStore) -> None:
    store.client.create_model_version("tiny", "s3://bucket/model", tags={"started_from": "v1", "split": "?"})


def tags_of_another(store: ModelStore) -> None:
    for key, value in {"macro": "inf", "started_from": "the best", "rolled_back": "?", "champion_before": "²"}.items():
        store.client.set_model_version_tag("tiny", "2", key, value)
    store.client.set_registered_model_tag("tiny", "champions", "1, 2,three,,3")
    store.client.set_registered_model_tag("tiny", "champion_history", "one")


def nothing(store: ModelStore) -> None:
    pass


DEEDS = (
    nothing,
    run_deleted,
    runs_gone,
    experiment_deleted,
    experiment_renamed,
    experiment_of_another,
    old_model_deleted,
    old_model_gone,
    version_deleted,
    names_of_others,
    version_of_another,
    tags_of_another,
)


@pytest.mark.parametrize("deed", DEEDS)
def test_what_others_do_in_the_store_hinders_no_command(
    deed: Callable[[ModelStore], None],
    store: ModelStore,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    deed(store)
    monkeypatch.setenv("ALTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    alter = caller(monkeypatch, capsys)
    commands = (
        ["models"],
        ["models", "tiny"],
        ["report", "tiny", "--output", "champion.html"],
        ["report", "tiny", "--version", "2", "--output", "two.html"],
        ["compare", "tiny", "champion", "2"],
        ["predict", "tiny", "--task", "colour", "the red ball is in the hall"],
        ["gc"],
        ["rollback", "tiny"],
        ["promote", "tiny", "3", "--reason", "it is better"],
        ["gc", "--keep", "1", "--yes"],
    )
    for words in commands:
        code, _, told = alter(*words)
        assert code == 0, (words, told)
    code, shown, _ = alter("models", "--json")
    rows = json.loads(shown, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert {3, 2} <= {row["version"] for row in rows if row["name"] == "tiny"}
    tracker = Tracker(store.tracking_uri, (tmp_path / "mlflow" / "artifacts").as_uri(), "tiny")
    again = store.register("tiny", tracker.start_run("again", {}, {}), bundle, run_key="k3", card="# tiny\n")
    new = store.register("tiny", tracker.start_run("new", {}, {}), bundle, run_key="k9", card="# tiny\n")
    assert (again, new > 4) == (3, True)
    if deed is names_of_others:
        assert {row["name"] for row in rows} == {"tiny", *NAMES}
        for name in NAMES:
            assert store.client.get_registered_model(name).tags == {"champions": "x"}
            assert len(store.versions(name)) == 3


OUTSIDE: dict[str, tuple[str, tuple[int, int]]] = {
    # What was done in MLflow's pages -> versions that left and came by rollback. Champions before: 1, 2, 3.
    "nothing": ("", (3, 2)),
    "made 4 champion": ("4", (4, 3)),
    "made 4, then others": ("45", (5, 3)),
}


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("case", OUTSIDE)
def test_rollback_goes_to_the_champion_before_by_whoever_made_it_so(
    case: str, seen: bool, store: ModelStore, parts: Path
) -> None:
    run = run_of(store, 4)
    assert store.register("tiny", run, parts, run_key="k5", card="# tiny\n") == 5
    moves, wanted = OUTSIDE[case]
    for version in moves:
        store.client.set_registered_model_alias("tiny", "champion", version)
        if seen and version != moves[-1]:
            store.versions("tiny")  # any command that looks
            wanted = (wanted[0], int(version))
    if seen:
        store.champion("tiny")
    assert store.rollback("tiny") == wanted
    assert store.alias("tiny", "champion")["version"] == wanted[1]  # type: ignore[index]
    further = store.rollback("tiny")
    assert further[0] == wanted[1]
    assert further[1] < wanted[1]


@pytest.mark.parametrize("seen", [False, True])
def test_rollback_after_a_move_back_to_an_earlier_champion_asks_which_one_is_meant(
    store: ModelStore, seen: bool
) -> None:
    store.client.set_registered_model_alias("tiny", "champion", "2")
    if seen:
        store.get("tiny", "champion")
    with pytest.raises(RegistryInputError, match=r"was moved outside alter \(from version 3 back to version 2") as told:
        store.rollback("tiny")
    assert "alter promote tiny VERSION" in str(told.value)
    store.set_champion("tiny", 4, 2)
    assert store.rollback("tiny") == (4, 2)


def test_rollback_after_the_alias_was_taken_away_asks_which_one_is_meant(store: ModelStore) -> None:
    store.client.delete_registered_model_alias("tiny", "champion")
    with pytest.raises(
        RegistryInputError, match=r"moved outside alter \(the alias was taken from version 3\).*3, 2, 1"
    ):
        store.rollback("tiny")
    store.set_champion("tiny", 3, None)
    assert store.rollback("tiny") == (3, 2)


def test_rollback_after_the_champion_was_deleted_goes_to_the_one_before(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.client.delete_model_version("tiny", "3")
    monkeypatch.setenv("ALTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, shown, _ = caller(monkeypatch, capsys)("rollback", "tiny")
    assert code == 0
    assert "version 2 is champion again; version 3, which was champion, was deleted" in shown


def test_rollback_over_versions_that_were_deleted_goes_to_the_last_that_is_there(store: ModelStore) -> None:
    store.client.delete_model_version("tiny", "2")
    assert store.rollback("tiny") == (3, 1)


def test_a_champion_that_another_tool_registered_is_named_and_taken_back(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version_of_another(store)
    store.client.set_registered_model_alias("tiny", "champion", "5")
    monkeypatch.setenv("ALTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    alter = caller(monkeypatch, capsys)
    for words in (["report", "tiny"], ["predict", "tiny", "--task", "colour", "red"], ["compare", "tiny", "5", "2"]):
        code, _, told = alter(*words)
        assert code == 2
        assert "tiny version 5 was not registered by alter" in told
    assert alter("gc", "--yes", "--keep", "1")[0] == 0
    assert alter("models")[0] == 0
    code, shown, _ = alter("rollback", "tiny")
    assert code == 0
    assert "version 3 is champion again; version 5 stays registered; it had been made champion outside alter" in shown


def test_a_version_whose_stored_model_was_deleted_is_registered_anew(store: ModelStore, bundle: Path) -> None:
    old_model_deleted(store)
    with pytest.raises(RegistryError, match=r"version 4 is registered, but its model .* was deleted in MLflow"):
        store.bundle_path("tiny", 4)
    assert store.register("tiny", run_of(store, 3), bundle, run_key="k4", card="# tiny\n") == 5
    assert store.bundle_path("tiny", 5).is_dir()
    assert [row["version"] for row in store.versions("tiny")] == [5, 4, 3, 2, 1]


def a_second_name(store: ModelStore, model_id: str) -> None:
    """The button *Register model* of a stored model's page."""
    store.client.create_registered_model("prod")
    place = store.client.get_logged_model(model_id).artifact_location
    store.client.create_model_version("prod", place, model_id=model_id, run_id=run_of(store, 1))


def a_copy(store: ModelStore, model_id: str) -> None:
    """The button *Promote model* of a version's page, and of the copy's."""
    store.client.create_registered_model("prod")
    store.client.create_model_version("prod", "models:/tiny/1", run_id=run_of(store, 1))
    store.client.create_model_version("prod", "models:/prod/1", run_id=run_of(store, 1))


def renamed(store: ModelStore, model_id: str) -> None:
    """The domain's registered model has another name, and a new one takes the old."""
    store.client.rename_registered_model("tiny", "tiny old")
    store.client.create_registered_model("tiny")


@pytest.mark.parametrize("deed", [a_second_name, a_copy, renamed])
def test_files_that_another_registered_version_names_stay(
    deed: Callable[[ModelStore, str], None], store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: Any = store.get("tiny", 1)
    folder = store.bundle_path("tiny", 1)
    deed(store, first["model_id"])
    monkeypatch.setattr("registry.retention.DAY", -1.0)  # whatever is unfinished is old
    plan = [item for item in plan_removals(store, keep=0) if item.domain == "tiny"]
    remove(store, plan)
    assert folder.is_dir()
    assert all("prod version 1" in item.stays for item in plan if item.version == 1)


def test_a_second_promotion_under_the_same_lock_notes_what_came_between(store: ModelStore) -> None:
    store.client.set_registered_model_alias("tiny", "champion", "2")
    store.set_champion("tiny", 4, 2)
    assert store.champions("tiny") == [*map(Champion, (1, 2, 3)), Champion(2, outside=True), Champion(4)]


@pytest.mark.parametrize(
    ("tag", "now", "wanted"),
    [
        ("1,2", 2, [(1, False), (2, False)]),
        ("1,2", 3, [(1, False), (2, False), (3, True)]),
        ("1,2,>3", 3, [(1, False), (2, False), (3, False)]),  # killed after the alias was moved
        ("1,2,>3", 2, [(1, False), (2, False)]),  # killed before
        ("1,2,>3", 4, [(1, False), (2, False), (4, True)]),
        ("1,~2", None, [(1, False), (2, True)]),
        ("", 7, [(7, True)]),
        ("1;2", 3, [(3, True)]),
    ],
)
def test_the_order_of_champions_is_told_from_the_tag_and_the_alias(
    tag: str, now: int | None, wanted: list[tuple[int, bool]]
) -> None:
    found = champions({"champions": tag}, now)
    assert [(one.version, one.outside) for one in found] == wanted
    assert champions({"champions": written(found)}, now) == found


@pytest.mark.parametrize(("tag", "now", "wanted"), [("1,2", 3, [1, 2, 3]), ("1,2,3", 3, [1, 2, 3]), ("", None, [])])
def test_the_tag_of_earlier_releases_is_read(tag: str, now: int | None, wanted: list[int]) -> None:
    assert champions({"champion_history": tag}, now) == [Champion(version) for version in wanted]
