"""What runs in a stack on this machine: each program's command, and no more of the environment than it needs."""

import os
import pwd
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alter_core.errors import WorkspaceError
from stack.place import HOST, POOL, QUIET, Place

HERE = Path(__file__).parent
MARK = "ALTER_STACK"
"""Variable that every process of a stack carries, those that workers start included; its value is the folder."""
DATABASE_USER = "postgres"  # PostgreSQL refuses to run as root: there it runs as the user that its package made
RUNS_PER_WORKER = 2


@dataclass(frozen=True)
class Program:
    """One entry of the process manager."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop: str = "TERM"
    patience: int = 30
    """Seconds between the signal to stop and SIGKILL."""


def postgres_folder() -> Path:
    """Folder of PostgreSQL's server programs, the newest that is installed. Raises WorkspaceError."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise WorkspaceError(
            "PostgreSQL's server programs are not installed: install your system's package `postgresql` "
            "(15 or later), or use docker-compose.yml"
        )
    return found[-1].parent


def database_user() -> str | None:
    """Whom PostgreSQL runs as where this process is root; None: as this process. Raises WorkspaceError."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(DATABASE_USER).pw_name
    except KeyError:
        raise WorkspaceError(
            f"PostgreSQL refuses to run as root, and there is no user {DATABASE_USER}: install your system's package "
            "`postgresql`, or run as an ordinary user"
        ) from None


def programs(place: Place) -> list[Program]:
    """Every program of the stack but its workers, in the order in which they start.

    Without Redis on this machine, Prefect's services run inside its server, in one process.
    """
    redis = shutil.which("redis-server")
    found = [_postgres(place)]
    if redis:
        found.append(Program("redis", [redis, str(place.redis_settings)]))
    found.append(_mlflow(place))
    server = [*_module("prefect", "server", "start"), "--host", HOST, "--port", str(place.ports.prefect)]
    environment = prefect_environment(place, redis=redis is not None)
    if not redis:
        return [*found, Program("prefect-server", server, environment)]
    return [
        *found,
        Program("prefect-server", [*server, "--no-services"], environment),
        Program("prefect-services", _module("prefect", "server", "services", "start"), environment),
    ]


def worker_programs(place: Place) -> list[Program]:
    """The workers. They know Prefect's password and MLflow's `factory` account, and no database's."""
    command = [*_module("prefect", "worker", "start"), "--pool", POOL, "--limit", str(RUNS_PER_WORKER)]
    environment = place.run_environment | place.client()
    return [
        Program(f"worker-{number}", [*command, "--name", f"worker-{number}"], environment, patience=60)
        for number in range(1, place.workers + 1)
    ]


def _postgres(place: Place) -> Program:
    command = [str(postgres_folder() / "postgres"), "-D", str(place.database), "-p", str(place.ports.postgres)]
    command += ["-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="]
    return Program("postgres", command, user=database_user(), stop="INT", patience=60)  # INT: a fast shutdown


def _mlflow(place: Place) -> Program:
    command = [*_module("mlflow", "server"), "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", HOST, "--port", str(place.ports.mlflow)]
    command += ["--allowed-hosts", ",".join(f"{name}:{place.ports.mlflow}" for name in (HOST, "localhost"))]
    command += ["--artifacts-destination", str(place.folder / "artifacts")]
    return Program("mlflow", command, mlflow_environment(place))


def mlflow_environment(place: Place) -> dict[str, str]:
    """MLflow's server: its databases by libpq's variables, so that no password stands in a command or a URL."""
    return {
        "PGHOST": HOST,
        "PGPORT": str(place.ports.postgres),
        "PGUSER": "mlflow",
        "PGPASSWORD": place.secrets["MLFLOW_DB_PASSWORD"],
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg:///mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(HERE / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": place.secrets["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": place.secrets["MLFLOW_COOKIE_KEY"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2.4 GB of helpers that a registry has no use for
    }


def prefect_environment(place: Place, redis: bool) -> dict[str, str]:
    """Prefect's server and services."""
    password = place.secrets["REDIS_PASSWORD"]
    found = {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": HOST,
        "PREFECT_SERVER_DATABASE_PORT": str(place.ports.postgres),
        "PREFECT_SERVER_DATABASE_NAME": "prefect",
        "PREFECT_SERVER_DATABASE_USER": "prefect",
        "PREFECT_SERVER_DATABASE_PASSWORD": place.secrets["PREFECT_DB_PASSWORD"],
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",  # done once, before: two servers would do it twice
        "PREFECT_SERVER_API_AUTH_STRING": f"admin:{place.secrets['PREFECT_PASSWORD']}",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_API_URL": place.prefect_url,
        "PREFECT_API_AUTH_STRING": f"admin:{place.secrets['PREFECT_PASSWORD']}",  # services act through the API
    }
    if redis:
        found |= {
            "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
            "PREFECT_REDIS_MESSAGING_HOST": HOST,
            "PREFECT_REDIS_MESSAGING_PORT": str(place.ports.redis),
            "PREFECT_REDIS_MESSAGING_PASSWORD": password,
            # It reads settings of its own, and not those of the messages.
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"redis://:{password}@{HOST}:{place.ports.redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"redis://:{password}@{HOST}:{place.ports.redis}/1",
        }
    return found


def base_environment(place: Place) -> dict[str, str]:
    """What every program has: where programs are, a home, and that nothing is reported to anybody."""
    kept = ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"]
    kept += ["ALTER_DATA_ROOT", "ALTER_CHECKPOINT_SECONDS", "ALTER_NOTIFY_BLOCK"]
    kept += ["CUDA_VISIBLE_DEVICES", "HF_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **QUIET,
        "PREFECT_HOME": str(place.home / "prefect"),
        "PYTHONPATH": str(HERE.parent),
        MARK: str(place.folder),
    }


def _module(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]
