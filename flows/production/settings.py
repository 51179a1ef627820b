"""The environment variables that a user may set: one table, which `alter --help` and the reference read.

Each is read where it is used, or by the library that it belongs to. A library ends with a traceback on a wrong number
or address, so `check_settings` looks at those before a command runs.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from alter_core.errors import AlterError, WorkspaceError
from alter_core.workspace import Workspace
from registry.errors import without_password
from registry.signing import SIGNING_KEY, VERIFYING_KEY, key_problem
from registry.spending import RATE_SETTING, rate_problem
from registry.store import sqlite_file

CHECKPOINT_SECONDS = 60.0
_DATABASE = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://\S+|sqlite(\+\w+)?:///\S.*")


@dataclass(frozen=True)
class Setting:
    """One environment variable."""

    name: str
    meaning: str
    default: str
    """What holds while it is unset, in words."""
    wrong: Callable[[str], str | None] = lambda _: None
    """What is wrong with a value that is set, in words; None for one that can be used."""


def _no_home(_: str) -> str | None:
    try:
        Workspace.default()
    except WorkspaceError as error:
        return error.headline.removeprefix("ALTER_HOME: ")
    return None


def _no_seconds(given: str) -> str | None:
    try:
        right = not given or float(given) > 0
    except ValueError:
        right = False
    return None if right else f"{given!r} is no number of seconds above 0; correct or unset it"


def _no_count(given: str, most: int | None = None) -> str | None:
    try:
        count = int(given)
    except ValueError:
        return f"{given!r} is no whole number; correct or unset it"
    if count < 0 or (most is not None and count > most):
        return f"{given!r} is not from 0 {'up' if most is None else f'to {most}'}; correct or unset it"
    return None


def _is_http(given: str) -> bool:
    try:
        parts = urlsplit(given)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", given)
        )
    except ValueError:  # a port that is no number, half of an IPv6 address
        return False


def _no_api(given: str) -> str | None:
    if not given or _is_http(given):
        return None
    return f"{without_password(given)!r} is no address such as http://127.0.0.1:4200/api; correct or unset it"


def _is_own(given: str) -> bool:
    """Whether a store is the workspace's, whose folder is made."""
    try:
        return given == Workspace.default().mlflow_uri
    except WorkspaceError:
        return False


def _no_store(given: str) -> str | None:
    if not given or _is_http(given):
        return None
    if not _DATABASE.fullmatch(given):
        return (
            f"{without_password(given)!r} is neither an MLflow server (http://HOST:PORT) nor a database that MLflow "
            "takes (sqlite:////FOLDER/FILE.db, or a URL of postgresql, mysql or mssql); correct or unset it"
        )
    file = sqlite_file(given)
    if file is not None and not file.parent.is_dir() and not _is_own(given):
        return f"there is no folder {file.parent} for the database {file.name}; make it, or correct or unset it"
    return None


SETTINGS = (
    Setting(
        "ALTER_HOME",
        "Folder for everything that the factory derives, the registry included.",
        "`.alter` in the current folder",
        _no_home,
    ),
    Setting(
        "ALTER_DATA_ROOT",
        "Folder that relative source paths may also lie under; the same as `--data-root`.",
        "the spec's folder alone",
    ),
    Setting(
        "ALTER_CHECKPOINT_SECONDS",
        "Seconds between checkpoints of a training.",
        f"{CHECKPOINT_SECONDS:g}",
        _no_seconds,
    ),
    Setting(
        "ALTER_NOTIFY_BLOCK",
        "A Prefect notification block that is told when a run ends badly, as TYPE/NAME.",
        "nobody is told",
    ),
    Setting(
        RATE_SETTING,
        "What an hour of this machine costs, as `0.85 EUR`; `alter status --costs` sums it.",
        "hours alone are summed",
        rate_problem,
    ),
    Setting(
        SIGNING_KEY,
        "PEM file of the elliptic private key that each registered bundle is signed with (extra `signing`).",
        "nothing is signed",
        partial(key_problem, private=True),
    ),
    Setting(
        VERIFYING_KEY,
        "PEM file of the public key: a version that was not signed with its private key is not loaded.",
        "signatures are not looked at",
        partial(key_problem, private=False),
    ),
    Setting(
        "ALTER_ENDPOINT_TOKEN",
        "Secret that callers of `alter endpoint` send as a bearer token.",
        "none is asked for, and it listens on loopback alone",
    ),
    Setting(
        "MLFLOW_TRACKING_URI",
        "Address of an MLflow server, or of a database that MLflow takes, such as sqlite:////FOLDER/FILE.db.",
        "the store in ALTER_HOME",
        _no_store,
    ),
    Setting("MLFLOW_TRACKING_USERNAME", "Account on an MLflow server that has accounts.", "no account"),
    Setting("MLFLOW_TRACKING_PASSWORD", "That account's password.", "no account"),
    Setting(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "How often an MLflow server that is away is asked again.",
        "MLflow's own; a team's stack sets it",
        partial(_no_count, most=10),  # more is refused at every request
    ),
    Setting("PREFECT_API_URL", "Address of a Prefect server's API.", "a server is started for the run", _no_api),
    Setting("PREFECT_API_AUTH_STRING", "`admin:PASSWORD` of a Prefect server that has a password.", "no password"),
    Setting(
        "PREFECT_CLIENT_MAX_RETRIES",
        "How often a Prefect server that is away is asked again.",
        "Prefect's own; a team's stack sets it",
        _no_count,
    ),
    Setting(
        "HF_HUB_OFFLINE",
        "1 forbids looking at the model hub: backbones and data sets must be here already.",
        "the hub may be asked; 1 under `make`",
    ),
)


def check_settings() -> None:
    """Raises AlterError with every variable whose value cannot be used."""
    given = [(one, os.environ[one.name]) for one in SETTINGS if one.name in os.environ]
    wrong = [f"{one.name}: {problem}" for one, value in given if (problem := one.wrong(value))]
    if wrong:
        raise AlterError.of(wrong, f"{len(wrong)} settings cannot be used")


def checkpoint_seconds() -> float:
    """Time between checkpoints. Raises AlterError where ALTER_CHECKPOINT_SECONDS is no number above zero."""
    given = os.environ.get("ALTER_CHECKPOINT_SECONDS", "")
    if problem := _no_seconds(given):
        raise AlterError(f"ALTER_CHECKPOINT_SECONDS: {problem}")
    return float(given or CHECKPOINT_SECONDS)
