"""Bringing a stack up on this machine, and down again; each step can be repeated."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.error import URLError
from urllib.request import urlopen

from alter_core.errors import AlterError, WorkspaceError
from stack import manager
from stack.passwords import write_private
from stack.place import HOST, Place
from stack.programs import (
    HERE,
    base_environment,
    database_user,
    mlflow_environment,
    postgres_folder,
    prefect_environment,
    programs,
    worker_programs,
)

ANSWER_SECONDS = 180.0
Note = Callable[[str], None]


def up(place: Place, note: Note) -> None:
    """Start the stack, making passwords, databases and accounts the first time. Raises AlterError.

    `note` hears of each step. When a step fails, what was started is stopped again.
    """
    postgres_folder()
    database_user()
    if manager.is_up(place):
        raise WorkspaceError(f"the stack in {place.folder} runs already; `make down-local` stops it")
    place.check_ports()
    place.prepare()
    fresh = not (place.database / "PG_VERSION").exists()
    if fresh:
        note("making the database server")
        _make_database(place)
    _write_redis_settings(place)
    found = programs(place)
    try:
        manager.start_manager(place, [*found, *worker_programs(place)])
        note("starting PostgreSQL")
        manager.start(place, "postgres")
        _wait(place, "postgres", lambda: _ready(place))
        if not _has_databases(place):
            _psql(place, "postgres", ["-f", str(HERE / "databases.sql")])
        note("bringing the databases of MLflow and Prefect up to date")
        _upgrade(place)
        for program in found[1:]:
            note(f"starting {program.name}")
            manager.start(place, program.name)
        _wait(place, "mlflow", lambda: _answers(f"{place.mlflow_url}/health"))
        _wait(place, "prefect-server", lambda: _answers(f"{place.prefect_url}/health"))
        note("making the accounts `factory` and `reader` in MLflow, and the work pool")
        _prepare(place)
        for program in worker_programs(place):
            note(f"starting {program.name}")
            manager.start(place, program.name)
    except BaseException:
        manager.stop_manager(place)
        raise
    _write_client_file(place)


def down(place: Place) -> list[int]:
    """Stop everything that the stack started; ids of processes that had to be killed. Its data stay."""
    return manager.stop_manager(place)


def _make_database(place: Place) -> None:
    """initdb. Raises WorkspaceError when PostgreSQL's user cannot come to the folder."""
    place.database.mkdir(exist_ok=True)
    place.database.chmod(0o700)
    user = database_user()
    if user:
        shutil.chown(place.database, user)
        if subprocess.run(_as_user(["test", "-w", str(place.database)]), cwd="/").returncode:
            raise WorkspaceError(
                f"PostgreSQL runs as the user {user}, who cannot come to {place.database}: let others pass through its "
                "parent folders (chmod o+x), set ALTER_HOME to a folder such as /var/lib/alter, or run as an ordinary "
                "user"
            )
    command = [str(postgres_folder() / "initdb"), "-D", str(place.database), "-U", "postgres", "-A", "scram-sha-256"]
    with tempfile.NamedTemporaryFile("w", dir=place.folder) as password:  # mode 600
        password.write(place.secrets["POSTGRES_PASSWORD"])
        password.flush()
        if user:
            shutil.chown(password.name, user)
        command += ["--pwfile", password.name, "--encoding=UTF8", "--locale=C.UTF-8"]
        _run(_as_user(command), {}, "make the database server")


def _as_user(command: Sequence[str]) -> list[str]:
    user = database_user()
    return ["runuser", "-u", user, "--", *command] if user else list(command)


def _write_redis_settings(place: Place) -> None:
    data = place.folder / "redis"
    data.mkdir(exist_ok=True)
    lines = [f"bind {HOST}", f"port {place.ports.redis}", f"requirepass {place.secrets['REDIS_PASSWORD']}"]
    lines += [f'dir "{data}"', "appendonly yes", "maxmemory-policy noeviction"]
    write_private(place.redis_settings, "\n".join(lines) + "\n")


def _ready(place: Place) -> bool:
    command = [str(postgres_folder() / "pg_isready"), "-q", "-h", HOST, "-p", str(place.ports.postgres)]
    return subprocess.run(command, cwd="/").returncode == 0


def _has_databases(place: Place) -> bool:
    return "mlflow_auth" in _psql(place, "postgres", ["-Atc", "select datname from pg_database"]).split()


def _psql(place: Place, database: str, arguments: Sequence[str]) -> str:
    command = [str(postgres_folder() / "psql"), "-X", "-q", "-h", HOST, "-p", str(place.ports.postgres)]
    command += ["-U", "postgres", "-d", database, *arguments]
    kept = {name: place.secrets[name] for name in ("PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD")}
    return _run(command, {**kept, "PGPASSWORD": place.secrets["POSTGRES_PASSWORD"]}, "make the databases")


def _upgrade(place: Place) -> None:
    python = [sys.executable, "-m"]
    mine = {**base_environment(place), **mlflow_environment(place)}
    _run(
        [*python, "mlflow", "db", "upgrade", "postgresql+psycopg:///mlflow"], mine, "bring MLflow's database up to date"
    )
    accounts = [*python, "mlflow.server.auth", "db", "upgrade", "--url", "postgresql+psycopg:///mlflow_auth"]
    _run(accounts, mine, "bring MLflow's accounts up to date")
    theirs = {**base_environment(place), **prefect_environment(place, redis=False)}
    _run([*python, "prefect", "server", "database", "upgrade", "-y"], theirs, "bring Prefect's database up to date")


def _prepare(place: Place) -> None:
    environment = {**base_environment(place), **place.client("admin"), **place.secrets}
    _run([sys.executable, "-m", "stack", "prepare"], environment, "make accounts and the work pool")


def _run(command: Sequence[str], environment: Mapping[str, str], doing: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, cwd="/")
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()[-1500:] or "the program does not say why"
        raise AlterError(f"could not {doing} (exit code {done.returncode}). {command[0]} says:\n{reason}")
    return done.stdout


def _wait(place: Place, name: str, found: Callable[[], bool]) -> None:
    """Until the program answers. Raises AlterError with the end of its log."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not found():
        if time.monotonic() > deadline:
            raise AlterError(
                f"{name} gave no answer within {ANSWER_SECONDS:.0f} s, so the stack was stopped again: "
                f"{manager.log_end(place, name)}"
            )
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _write_client_file(place: Place) -> None:
    """What a shell needs: `set -a; . FILE; set +a`."""
    write_private(place.client_file, "".join(f"{name}={value!r}\n" for name, value in place.client().items()))
