"""A workspace that was copied, moved or restored works on its own files, and on no others."""

import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import RegistryInputError
from registry.models import ModelStore
from registry.places import local
from registry.retention import plan_removals, remove
from registry.tracking import Tracker
from tests.command_line import caller
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

COLUMNS = (
    ("experiments WHERE experiment_id > 0", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A workspace with versions 1 to 3 of `tiny`, the third of them champion, and another team's experiment."""
    home = tmp_path_factory.mktemp("made") / ".alter"
    bundle = tmp_path_factory.mktemp("bundle") / "parts"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    store = Store(home / "mlflow", empty_store)
    for number in (1, 2, 3):
        store.register(bundle, f"k{number}", facts=card_facts("tiny"))
    store.models.set_champion("tiny", 3, None)
    client = store.models.client
    by_ui = client.create_experiment("by hand", (store.folder / "artifacts" / "7").as_uri())
    client.log_text(client.create_run(by_ui).info.run_id, "x", "x.txt")
    team = tmp_path_factory.mktemp("team")
    other = client.create_experiment("team", team.as_uri())
    client.log_text(client.create_run(other).info.run_id, "x", "x.txt")
    return home


@pytest.fixture
def prod(made: Path, tmp_path: Path) -> Path:
    """A workspace of the test's own, at home where it lies."""
    home = tmp_path / "prod" / ".alter"
    shutil.copytree(made, home)
    ModelStore(uri(home))
    return home


def uri(home: Path) -> str:
    return f"sqlite:///{home}/mlflow/mlflow.db"


def places(home: Path) -> dict[str, list[str]]:
    """Where the store says that files lie, but for the other team's experiment."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        return {
            f"{table.split()[0]}.{column}": [
                place for (place,) in database.execute(f"SELECT {column} FROM {table}") if "/team" not in place
            ]
            for table, column in COLUMNS
        }


def held(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, its bytes and when it was written; lock files hold nothing."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".lock"
    }


def copied(prod: Path, to: Path) -> Path:
    shutil.copytree(prod, to, ignore=shutil.ignore_patterns("backup"))
    return to


def copied_twice(prod: Path, to: Path) -> Path:
    ModelStore(uri(copied(prod, to.with_name("between"))))
    return copied(to.with_name("between"), to)


def restored(prod: Path, to: Path) -> Path:
    with tarfile.open(to.parent.parent / "backup.tar", "w") as backup:
        backup.add(prod, ".")
    with tarfile.open(to.parent.parent / "backup.tar") as backup:
        backup.extractall(to)
    return to


def behind_a_link(prod: Path, to: Path) -> Path:
    copied(prod, to.with_name("real"))
    to.symlink_to("real")
    return to


def with_experiments_gone(prod: Path, to: Path) -> Path:
    """As `mlflow gc --experiment-ids` leaves it: versions and models, and no experiment."""
    copied(prod, to)
    with sqlite3.connect(to / "mlflow" / "mlflow.db") as database:
        database.execute("DELETE FROM runs")
        database.execute("DELETE FROM experiments WHERE name = 'tiny'")
    return to


WAYS = {
    "copied": (copied, "copy/.alter"),
    "copied to another name": (copied, "work"),
    "copied to blanks, umlauts and percent": (copied, "Jörgs 100% 'copy'/.alter"),
    "copied below the original": (copied, "prod/.alter/backup/.alter"),
    "copied twice": (copied_twice, "copy/.alter"),
    "restored from a backup": (restored, "restored/.alter"),
    "copied behind a link": (behind_a_link, "copy/.alter"),
    "copied, its experiment gone for good": (with_experiments_gone, "copy/.alter"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_done_in_a_copy_touches_nothing_of_the_original(
    way: str,
    prod: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy, place = WAYS[way]
    home = tmp_path / place
    home.parent.mkdir(parents=True, exist_ok=True)
    copy(prod, home)
    before = {name: file for name, file in held(prod).items() if not name.startswith("backup/")}
    monkeypatch.setenv("ALTER_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    alter = caller(monkeypatch, capsys)
    caplog.clear()
    assert alter("report", "tiny", "--output", "tiny.html")[0] == 0
    assert f"mlflow/artifacts, and lie in {home}/mlflow/artifacts" in caplog.text
    caplog.clear()
    store = ModelStore(uri(home))
    assert caplog.text == ""  # told once
    found = [local(place) for group in places(home).values() for place in group]
    assert all(place and place.is_relative_to(home / "mlflow" / "artifacts") for place in found)
    assert store.bundle_path("tiny", 1).is_relative_to(home)
    tracker = Tracker(uri(home), (home / "mlflow" / "artifacts").as_uri(), "tiny")
    assert store.register("tiny", tracker.start_run("new", {}, {}), parts, run_key="k4", card="# tiny\n") == 4
    assert store.bundle_path("tiny", 4).is_relative_to(home)
    assert alter("gc", "--keep", "1", "--yes")[0] == 0
    assert [row["version"] for row in store.versions("tiny")] == [4, 3]
    assert len(list((home / "mlflow" / "artifacts" / "models").iterdir())) == 2
    assert {name: file for name, file in held(prod).items() if not name.startswith("backup/")} == before


@pytest.mark.parametrize("place", ["moved/.alter", "prod/renamed"])
def test_a_workspace_that_was_moved_goes_on_where_it_lies(prod: Path, parts: Path, tmp_path: Path, place: str) -> None:
    home = tmp_path / place
    home.parent.mkdir(exist_ok=True)
    prod.rename(home)
    store = ModelStore(uri(home))
    assert store.bundle_path("tiny", "champion").is_relative_to(home)
    tracker = Tracker(uri(home), (home / "mlflow" / "artifacts").as_uri(), "tiny")
    store.register("tiny", tracker.start_run("new", {}, {}), parts, run_key="k4", card="# tiny\n")
    remove(store, plan_removals(store, keep=0))
    assert not prod.exists()


def test_a_moved_store_whose_experiment_has_no_files_yet_gets_them_where_it_lies(
    tmp_path: Path, empty_store: Path
) -> None:
    Store(tmp_path / "before" / "mlflow", empty_store).tracker()
    (tmp_path / "before").rename(tmp_path / "after")
    Tracker(uri(tmp_path / "after"), None, "tiny")
    assert places(tmp_path / "after")["experiments.artifact_location"] == [
        (tmp_path / "after" / "mlflow" / "artifacts").as_uri()
    ]


def as_it_is(home: Path) -> str:
    return str(home)


def by_a_link(home: Path) -> str:
    (home.parent / "link").symlink_to(home)
    return str(home.parent / "link")


def relative(home: Path) -> str:
    os.chdir(home.parent.parent)
    return "prod/.alter"


def upwards(home: Path) -> str:
    (home.parent / "here").mkdir()
    os.chdir(home.parent / "here")
    return "../.alter"


@pytest.mark.parametrize("way", [as_it_is, by_a_link, relative, upwards])
def test_one_workspace_under_several_names_stays_as_it_is(
    way: Callable[[Path], str],
    prod: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = places(prod)
    monkeypatch.chdir(prod.parent)
    monkeypatch.setenv("ALTER_HOME", way(prod))
    caplog.clear()
    alter = caller(monkeypatch, capsys)
    assert alter("models")[0] == 0
    assert alter("gc", "--keep", "0", "--yes")[0] == 0
    assert caplog.text == ""
    assert places(prod)["experiments.artifact_location"] == before["experiments.artifact_location"]
    assert len(places(prod)["model_versions.source"]) == 3
    assert [row["version"] for row in ModelStore(uri(prod)).versions("tiny")] == [3]


def test_another_teams_experiment_stays_where_it_is(prod: Path, tmp_path: Path) -> None:
    before = ModelStore(uri(prod)).client.get_experiment_by_name("team").artifact_location
    home = copied(prod, tmp_path / "copy")
    assert ModelStore(uri(home)).client.get_experiment_by_name("team").artifact_location == before


def test_a_store_that_was_copied_without_its_files_names_both_places(
    prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy" / ".alter"
    (home / "mlflow").mkdir(parents=True)
    shutil.copy(prod / "mlflow" / "mlflow.db", home / "mlflow")
    before = held(prod)
    monkeypatch.setenv("ALTER_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    alter = caller(monkeypatch, capsys)
    for words in (["report", "tiny"], ["predict", "tiny", "--task", "colour", "red"], ["compare", "tiny", "1", "2"]):
        code, _, told = alter(*words)
        assert code == 2
        assert f"{prod}/mlflow/artifacts" in told
        assert f"outside of this workspace, whose files lie in {home}/mlflow/artifacts" in told
    code, shown, _ = alter("gc", "--keep", "0", "--yes")
    assert code == 0
    assert shown.count(f"it stays, as its files lie at {prod}/mlflow/artifacts") == 2
    with pytest.raises(RegistryInputError, match="outside of this workspace") as caught:
        Tracker(uri(home), (home / "mlflow" / "artifacts").as_uri(), "tiny")
    assert str(prod) in str(caught.value)
    assert str(home) in str(caught.value)
    assert [row["version"] for row in ModelStore(uri(home)).versions("tiny")] == [3, 2, 1]
    assert held(prod) == before


def test_a_restored_store_that_a_setting_names_does_not_reach_into_the_workspace(
    prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prod / "mlflow", tmp_path / "restored")
    before = held(prod)
    monkeypatch.setenv("ALTER_HOME", str(prod))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/restored/mlflow.db")
    assert caller(monkeypatch, capsys)("gc", "--keep", "0", "--yes")[0] == 0
    assert len(list((tmp_path / "restored" / "artifacts" / "models").iterdir())) == 1
    assert held(prod) == before


def test_a_copy_of_the_database_alone_frees_no_files_of_the_workspace(
    prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(prod / "mlflow" / "mlflow.db", tmp_path / "try.db")
    before = held(prod)
    monkeypatch.setenv("ALTER_HOME", str(prod))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/try.db")
    code, shown, _ = caller(monkeypatch, capsys)("gc", "--keep", "0", "--yes")
    assert code == 0
    assert shown.count(f"its files are those of the store {prod}/mlflow/mlflow.db too") == 2
    assert held(prod) == before


def test_a_store_that_two_workspaces_share_keeps_the_places_of_both(
    made: Path, parts: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared.db"
    shutil.copy(empty_store, shared)
    one, two = (tmp_path / name / "mlflow" / "artifacts" for name in ("one", "two"))
    address = f"sqlite:///{shared}"
    run = Tracker(address, one.as_uri(), "tiny").start_run("a", {}, {})
    ModelStore(address, one).register("tiny", run, parts, run_key="a", card="# tiny\n")
    theirs = ModelStore(address, two)
    assert theirs.bundle_path("tiny", 1).is_relative_to(one)  # the store that both name is what is meant
    (item,) = plan_removals(theirs, keep=0)
    assert str(one) in item.stays
    assert str(two) in item.stays
    assert remove(theirs, [item]) == 0
    with pytest.raises(RegistryInputError, match="keeps its files at"):
        Tracker(address, two.as_uri(), "tiny")
    assert remove(ModelStore(address, one), plan_removals(ModelStore(address, one), keep=0)) > 0


@pytest.mark.parametrize("part", ["mlflow", "mlflow/artifacts", "mlflow/artifacts/models"])
def test_a_copy_that_took_links_along_deletes_nothing_behind_them(
    part: str, prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk" / Path(part).name
    disk.parent.mkdir()
    (prod / part).rename(disk)
    (prod / part).symlink_to(disk)
    home = tmp_path / "copy"
    shutil.copytree(prod, home, symlinks=True)
    before = held(disk)
    monkeypatch.setenv("ALTER_HOME", str(home))
    code, shown, told = caller(monkeypatch, capsys)("gc", "--keep", "0", "--yes")
    assert str(disk) in shown + told
    assert str(home) in shown + told
    assert code == (2 if part == "mlflow" else 0)
    files = {name: file for name, file in held(disk).items() if name != "mlflow.db"}
    assert files == {name: file for name, file in before.items() if name != "mlflow.db"}


def test_a_store_that_may_only_be_read_is_read_where_it_lies(prod: Path, tmp_path: Path) -> None:
    home = copied(prod, tmp_path / "copy")
    file = home / "mlflow" / "mlflow.db"
    before = file.read_bytes()
    file.chmod(0o444)
    (home / "mlflow").chmod(0o555)
    try:
        assert ModelStore(uri(home)).bundle_path("tiny", 1).is_relative_to(home)
    finally:
        (home / "mlflow").chmod(0o755)
    if os.getuid():  # root may write anywhere
        assert file.read_bytes() == before
