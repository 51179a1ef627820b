"""What runs inside a served model: MLflow's 'models from code' stores this file beside the bundle and runs it at load.

It is self-contained: in the serving process there may be no `registry`, and `alter_core` comes from the environment,
or else from the wheel that was stored with the model. It is the one file of the registry that loads `alter_core`, and
only in load_context. No pickle anywhere: the bundle is safetensors and JSON.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

MAX_ROWS = 10_000  # of one request: requests take turns, and others wait meanwhile; files go through `alter predict`
MAX_CHARACTERS = 1_000_000  # of one input: far beyond any task's limit, so it is a mistake and not a long text
SHOWN = 5
COLUMNS = ("task", "input")


class ScoringModel(PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """One domain's model: columns `task`, `input` in; `prediction`, `score`, `truncated`, `abstain` out, row by row."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle. Raises alter_core's BundleError when a part is missing or was altered, MlflowException when
        ALTER_VERIFYING_KEY names a key that it was not signed with."""
        bundle = Path(context.artifacts["bundle"])
        if key := os.environ.get("ALTER_VERIFYING_KEY"):
            _verify(bundle, context.artifacts.get("signature"), key)
        wheels = Path(context.artifacts["code"]) if "code" in context.artifacts else None
        self._predictor = _predictor_class(wheels).from_bundle(bundle)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer mixed tasks in one batch. Wrong rows give an error of status 400 that names each of them."""
        problems = _problems(model_input)
        if problems:
            raise _refused(problems)
        tasks, inputs = (model_input[name].tolist() for name in COLUMNS)
        try:
            answers = self._predictor.predict(tasks, inputs)
        except Exception as error:
            # alter_core marks what the caller can mend with exit code 2; anything else is ours, and stays a 500.
            if getattr(error, "exit_code", None) == 2:
                raise _refused([str(error)]) from error
            raise
        return pd.DataFrame(
            {
                "prediction": [answer.text for answer in answers],
                "score": [float(answer.score) for answer in answers],
                "truncated": [bool(answer.truncated) for answer in answers],
                "abstain": [bool(answer.abstain) for answer in answers],
            }
        )


def _verify(bundle: Path, signature: str | None, key: str) -> None:
    if not signature:
        raise MlflowException("this version was registered without a signature, and ALTER_VERIFYING_KEY asks for one")
    from model_signing.verifying import Config  # only where versions are signed

    Config().use_elliptic_key_verifier(public_key=key).verify(bundle, signature)


def _predictor_class(wheels: Path | None) -> Any:
    """alter_core's Predictor: the environment's, else that of the wheel in the folder `wheels`."""
    name = "alter_core.inference.predict"
    try:
        return importlib.import_module(name).Predictor
    except ModuleNotFoundError as error:
        if error.name != "alter_core" or wheels is None:
            raise
    sys.path.extend(str(wheel) for wheel in sorted(wheels.glob("*.whl")))  # pure Python: runs from the archive
    return importlib.import_module(name).Predictor


def _problems(frame: pd.DataFrame) -> list[str]:
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        return [f"missing columns: {', '.join(missing)}; send one object per row with task and input"]
    if frame.empty:
        return ["there are no rows; send at least one with task and input"]
    if len(frame) > MAX_ROWS:
        return [f"{len(frame):,} rows in one request, at most {MAX_ROWS:,} are taken: send several requests"]
    problems = []
    for name in COLUMNS:
        for row, value in enumerate(frame[name].tolist()):
            if not isinstance(value, str):
                problems.append(f"row {row}: {name} must be a text, got {_kind(value)}")
            elif not value.strip():
                problems.append(f"row {row}: {name} is empty")
            elif len(value) > MAX_CHARACTERS:
                problems.append(
                    f"row {row}: {name} has {len(value):,} characters, at most {MAX_CHARACTERS:,} are taken"
                )
    return problems


def _kind(value: Any) -> str:
    """What came instead of a text, in words of JSON."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or value is pd.NA or value != value:
        return "null"
    return "true or false" if isinstance(value, bool) else "a number"


def _refused(problems: list[str]) -> MlflowException:
    shown = problems[:SHOWN] + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])
    return MlflowException.invalid_parameter_value("; ".join(shown))


mlflow.models.set_model(ScoringModel())
