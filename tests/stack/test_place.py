"""A stack's passwords, ports and settings, without starting one."""

import configparser
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alter_core.errors import AlterError, WorkspaceError
from stack.manager import write_settings
from stack.passwords import NAMES, passwords
from stack.place import Place, Ports
from stack.prepare import prepare
from stack.programs import postgres_folder, programs, worker_programs

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path, Ports(), workers=2)
    made.prepare()
    return made


@pytest.fixture
def needs_postgres() -> None:
    try:
        postgres_folder()
    except WorkspaceError:
        pytest.skip("PostgreSQL's server programs are not installed")


def test_passwords_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "passwords.env"
    made = passwords(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(made) == set(NAMES)
    assert len(set(made.values())) == len(NAMES)
    assert passwords(file) == made


def test_passwords_that_others_may_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "passwords.env"
    passwords(file)
    file.chmod(0o644)
    with pytest.raises(WorkspaceError, match="chmod 600"):
        passwords(file)


def test_a_missing_password_is_named(tmp_path: Path) -> None:
    file = tmp_path / "passwords.env"
    passwords(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("REDIS_PASSWORD=")))
    with pytest.raises(WorkspaceError, match="lacks REDIS_PASSWORD"):
        passwords(file)


def test_every_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            each.listen()
        taken = Ports(prefect=one.getsockname()[1], mlflow=two.getsockname()[1])
        with pytest.raises(WorkspaceError, match=r"--prefect-port[\s\S]*--mlflow-port"):
            Place(tmp_path, taken).check_ports()


def test_a_path_that_is_too_long_for_a_socket_is_told_before_anything_is_made(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with pytest.raises(WorkspaceError, match="set ALTER_HOME to a shorter one"):
        Place(home, Ports()).prepare()
    assert not home.exists()


def test_a_workspace_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="make up-local"):
        Place.open(tmp_path)


def test_a_stack_is_found_again_as_it_was_set_up(place: Place) -> None:
    assert Place.open(place.home) == place


@pytest.mark.usefixtures("needs_postgres")
def test_no_command_line_holds_a_password(place: Place) -> None:
    words = [word for program in [*programs(place), *worker_programs(place)] for word in program.command]
    assert words
    assert not [word for word in words for secret in place.secrets.values() if secret in word]


def test_workers_know_no_database_and_no_administrator(place: Place) -> None:
    kept = {"PREFECT_PASSWORD", "MLFLOW_FACTORY_PASSWORD"}
    hidden = [secret for name, secret in place.secrets.items() if name not in kept]
    for program in worker_programs(place):
        assert not [v for v in program.environment.values() for secret in hidden if secret in v]


@pytest.mark.usefixtures("needs_postgres")
def test_workers_have_what_specs_name_from_a_file_of_their_owner_alone(place: Place) -> None:
    file = place.folder / "worker.env"
    file.write_text("DESK_PASSWORD=secret\nMLFLOW_TRACKING_URI=elsewhere\n")
    file.chmod(0o644)
    with pytest.raises(WorkspaceError, match="may be read by others"):
        worker_programs(place)
    file.chmod(0o600)
    for program in worker_programs(place):
        assert program.environment["DESK_PASSWORD"] == "secret"
        assert program.environment["MLFLOW_TRACKING_URI"] == place.mlflow_url
    assert all("DESK_PASSWORD" not in program.environment for program in programs(place))


def test_the_managers_settings_restart_what_dies_and_only_their_owner_reads_them(place: Place) -> None:
    file = write_settings(place, [*programs(place), *worker_programs(place)])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = configparser.RawConfigParser()
    settings.read(file)
    sections = [name for name in settings.sections() if name.startswith("program:")]
    expected = {"postgres", "mlflow", "prefect-server", "worker-1", "worker-2"}
    expected |= {"redis", "prefect-services"} if shutil.which("redis-server") else set()
    assert {name.removeprefix("program:") for name in sections} == expected
    assert {settings[name]["autorestart"] for name in sections} == {"true"}


def test_preparing_servers_without_passwords_names_each_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", *NAMES):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AlterError, match="MLFLOW_ADMIN_PASSWORD, MLFLOW_FACTORY_PASSWORD, MLFLOW_READER_PASSWORD"):
        prepare()


def test_servers_are_prepared_where_no_supervisor_is_installed() -> None:
    """A worker's image has none, and `docker-compose.yml` prepares the servers from it."""
    code = "import sys; sys.modules['supervisor'] = None; from stack.__main__ import app; app(['prepare', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    imported = "import sys; sys.modules['supervisor'] = None; import stack.prepare"
    assert subprocess.run([sys.executable, "-c", imported], cwd=ROOT).returncode == 0
