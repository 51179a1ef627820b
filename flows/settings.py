"""The environment variables that a user may set: one table, which `alter --help` and the reference read.

Each is read where it is used, or by the library that it belongs to.
"""

import os
from dataclasses import dataclass

from alter_core.errors import AlterError

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Setting:
    """One environment variable."""

    name: str
    meaning: str
    default: str
    """What holds while it is unset, in words."""


SETTINGS = (
    Setting(
        "ALTER_HOME",
        "Folder for everything that the factory derives, the registry included.",
        "`.alter` in the current folder",
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
    ),
    Setting(
        "ALTER_NOTIFY_BLOCK",
        "A Prefect notification block that is told when a run ends badly, as TYPE/NAME.",
        "nobody is told",
    ),
    Setting("MLFLOW_TRACKING_URI", "Address of an MLflow server.", "the store in ALTER_HOME"),
    Setting("MLFLOW_TRACKING_USERNAME", "Account on an MLflow server that has accounts.", "no account"),
    Setting("MLFLOW_TRACKING_PASSWORD", "That account's password.", "no account"),
    Setting(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "How often an MLflow server that is away is asked again.",
        "MLflow's own; a team's stack sets it",
    ),
    Setting("PREFECT_API_URL", "Address of a Prefect server's API.", "a server is started for the run"),
    Setting("PREFECT_API_AUTH_STRING", "`admin:PASSWORD` of a Prefect server that has a password.", "no password"),
    Setting(
        "PREFECT_CLIENT_MAX_RETRIES",
        "How often a Prefect server that is away is asked again.",
        "Prefect's own; a team's stack sets it",
    ),
    Setting(
        "HF_HUB_OFFLINE",
        "1 forbids looking at the model hub: backbones and data sets must be here already.",
        "the hub may be asked; 1 under `make`",
    ),
)


def checkpoint_seconds() -> float:
    """Time between checkpoints. Raises AlterError where ALTER_CHECKPOINT_SECONDS is no number above zero."""
    given = os.environ.get("ALTER_CHECKPOINT_SECONDS", "")
    try:
        seconds = float(given) if given else CHECKPOINT_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise AlterError(f"ALTER_CHECKPOINT_SECONDS: {given!r} is no number of seconds above 0; correct or unset it")
    return seconds
