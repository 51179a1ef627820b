"""The table of settings holds what is read, and a wrong value is a message."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alter_core.errors import AlterError
from flows.production.settings import CHECKPOINT_SECONDS, SETTINGS, check_settings, checkpoint_seconds
from tests.command_line import caller

ROOT = Path(__file__).parents[3]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in SETTINGS:
        monkeypatch.delenv(one.name, raising=False)


def test_every_variable_of_the_factory_is_told() -> None:
    read = {
        name
        for room in ("alter_core", "flows", "registry")
        for file in (ROOT / room).rglob("*.py")
        for name in re.findall(r"\bALTER_[A-Z_]+\b", file.read_text(encoding="utf-8"))
    }
    assert {one.name for one in SETTINGS if one.name.startswith("ALTER_")} == read


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan"])
def test_a_time_between_checkpoints_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ALTER_CHECKPOINT_SECONDS", given)
    with pytest.raises(AlterError, match=rf"ALTER_CHECKPOINT_SECONDS: '{given}' is no number of seconds above 0"):
        checkpoint_seconds()


@pytest.mark.parametrize(("given", "seconds"), [("", CHECKPOINT_SECONDS), ("0.5", 0.5)])
def test_the_time_between_checkpoints_is_read(monkeypatch: pytest.MonkeyPatch, given: str, seconds: float) -> None:
    monkeypatch.setenv("ALTER_CHECKPOINT_SECONDS", given)
    assert checkpoint_seconds() == seconds


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("ALTER_HOME", "~nouser/x", "'~nouser/x' begins with a user who has no home folder here"),
        ("ALTER_CHECKPOINT_SECONDS", "soon", "'soon' is no number of seconds above 0"),
        ("PREFECT_CLIENT_MAX_RETRIES", "abc", "'abc' is no whole number"),
        ("PREFECT_CLIENT_MAX_RETRIES", "", "'' is no whole number"),
        ("PREFECT_CLIENT_MAX_RETRIES", "-1", "'-1' is not from 0 up"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1.5", "'1.5' is no whole number"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "11", "'11' is not from 0 to 10"),
        ("PREFECT_API_URL", "http://host:port/api", "'http://host:port/api' is no address"),
        ("PREFECT_API_URL", "127.0.0.1:4200/api", "is no address such as http://127.0.0.1:4200/api"),
        ("MLFLOW_TRACKING_URI", "http://[::1", "'http://[::1' is neither an MLflow server"),
        ("MLFLOW_TRACKING_URI", "foo", "'foo' is neither"),
        ("MLFLOW_TRACKING_URI", "ftp://host/x", "nor a database that MLflow takes"),
        ("MLFLOW_TRACKING_URI", "sqlite://", "'sqlite://' is neither"),
        ("MLFLOW_TRACKING_URI", "mongodb://me:hunter2@host/x", "'mongodb://host/x' is neither"),
        ("MLFLOW_TRACKING_URI", "sqlite:////nowhere/x.db", "there is no folder /nowhere for the database x.db"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, says: str
) -> None:
    monkeypatch.setenv(name, given)
    with pytest.raises(AlterError) as caught:
        check_settings()
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert says in message
    assert "correct or unset it" in message


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("PREFECT_CLIENT_MAX_RETRIES", "0"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10"),
        ("PREFECT_API_URL", ""),
        ("PREFECT_API_URL", "https://prefect.example.org/api"),
        ("MLFLOW_TRACKING_URI", ""),
        ("MLFLOW_TRACKING_URI", "http://[::1]:5000"),
        ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        ("MLFLOW_TRACKING_URI", "postgresql+psycopg://me:hunter2@db:5432/mlflow"),
    ],
)
def test_a_value_that_can_be_used_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, given: str) -> None:
    monkeypatch.setenv(name, given)
    check_settings()


@pytest.mark.usefixtures("unset")
def test_the_workspaces_own_store_may_be_named_before_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/home/mlflow/mlflow.db")
    check_settings()


@pytest.mark.usefixtures("unset")
def test_a_command_tells_all_wrong_settings_before_it_begins_and_its_help_is_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo")
    alter = caller(monkeypatch, capsys)
    code, _, err = alter("models")
    assert code == 2
    assert err.startswith("error: 2 settings cannot be used\n  - MLFLOW_TRACKING_URI: 'foo' is neither")
    assert "\n  - PREFECT_CLIENT_MAX_RETRIES: 'abc' is no whole number; correct or unset it\n" in err
    assert alter("models", "--help")[0] == 0


def test_a_workspace_of_nobody_is_a_message_from_the_first_import_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli.app import main; main()", "check"],
        capture_output=True,
        text=True,
        env={**os.environ, "ALTER_HOME": "~nouser/x", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ALTER_HOME: '~nouser/x' begins with a user")
