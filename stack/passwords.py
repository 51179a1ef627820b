"""Passwords of a stack on this machine: made once, kept in a file that only its owner reads."""

import os
import secrets
from pathlib import Path

from dotenv import dotenv_values

from alter_core.errors import WorkspaceError

NAMES = (
    "POSTGRES_PASSWORD",
    "PREFECT_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "REDIS_PASSWORD",
    "PREFECT_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_FACTORY_PASSWORD",
    "MLFLOW_READER_PASSWORD",
    "MLFLOW_COOKIE_KEY",
)
"""The same names as in .env.example, where each is explained."""


def passwords(file: Path) -> dict[str, str]:
    """The passwords in `file`, made at random when it is not there. Raises WorkspaceError.

    They hold only letters, digits, - and _: some become parts of URLs.
    """
    if not file.exists():
        write_private(file, "".join(f"{name}={secrets.token_urlsafe(24)}\n" for name in NAMES), once=True)
    found = read_private(file)
    if missing := [name for name in NAMES if not found.get(name)]:
        raise WorkspaceError(
            f"{file} lacks {', '.join(missing)}; add them, or remove the whole folder {file.parent} to begin anew "
            "(its databases and models go with it)"
        )
    return {name: str(found[name]) for name in NAMES}


def read_private(file: Path) -> dict[str, str]:
    """NAME=VALUE lines of a file that its owner alone may read. Raises WorkspaceError where others may."""
    if file.stat().st_mode & 0o077:
        raise WorkspaceError(
            f"{file} holds passwords and may be read by others: run `chmod 600 {file}`, then try again"
        )
    return {name: value for name, value in dotenv_values(file).items() if value is not None}


def write_private(file: Path, text: str, once: bool = False) -> None:
    """Write a file that its owner alone may read, from its first moment on. once: raises FileExistsError for one that
    is there."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if once else os.O_TRUNC)
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as sink:
        sink.write(text)
