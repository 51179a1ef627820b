"""Wiring: Prefect flows and the command line. The only package that imports Prefect.

Importing it sets what must stand in the environment before prefect, mlflow or great_expectations are imported; a
value that is already there wins.
"""

import os

from alter_core.workspace import Workspace

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # also removes a `database is locked` traceback at each start
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_HOME": str(Workspace.default().prefect_home),
    "TOKENIZERS_PARALLELISM": "true",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
