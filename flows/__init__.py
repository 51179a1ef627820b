"""Wiring: Prefect flows and the command line. The only package that imports Prefect.

Importing it sets what must stand in the environment before prefect, mlflow or great_expectations are imported; a
value that is already there wins.
"""

import os
from contextlib import suppress
from pathlib import Path

from alter_core.errors import WorkspaceError
from alter_core.workspace import Workspace

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # also removes a `database is locked` traceback at each start
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2.4 GB of helpers that `alter ui` has no use for
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "TOKENIZERS_PARALLELISM": "true",
}
with suppress(WorkspaceError):  # of a wrong ALTER_HOME, which is told before a command runs
    _ENVIRONMENT["PREFECT_HOME"] = str(Workspace.default().prefect_home)
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


def make_prefect_home() -> None:
    """Prefect makes its home only where the parent is there. Raises WorkspaceError where it cannot be made."""
    home = Path(os.environ["PREFECT_HOME"])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(f"cannot make {home}: {error.strerror}; set ALTER_HOME to a folder of yours") from error
