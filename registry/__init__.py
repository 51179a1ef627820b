"""The only room that imports MLflow: runs, registered versions, cards and the promotion rule.

It takes and gives paths and plain values; of alter_core it knows the errors alone, and nothing of Prefect. What MLflow
reads from the environment when it is imported is set here; a value that is already there wins.
"""

import os

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # only this literal counts
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one bar per file would drown a run's own display
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # asks a package index, which an air-gapped machine does not have
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
