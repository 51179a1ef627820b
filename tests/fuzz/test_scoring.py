"""Whatever a caller sends to a served model, it answers every row or refuses the request: never a defect."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations

from tests.fuzz.conftest import no_hang
from tests.registry.conftest import EXAMPLE, Store, empty_store, make_bundle

__all__ = ["empty_store"]  # a fixture

texts = st.text(max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        "a\udfffb",
        "\ufeff",
        "é" * 500,
        "red " * 2000,
        "{input}",
        "<end>",
        "<pad>",
        "</s>",
        "🙂" * 90,
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
tasks = st.sampled_from(["colour", "match", "thing"])
rows = st.fixed_dictionaries({"task": tasks | texts | anything, "input": texts | anything})
likely = st.fixed_dictionaries({"task": tasks, "input": texts})


@pytest.fixture(scope="module")
def model(tiny_backbone: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A registered model as a scoring server loads it."""
    folder = tmp_path_factory.mktemp("scoring")
    store = Store(folder / "mlflow", empty_store)
    version = store.register(make_bundle(tiny_backbone, folder / "bundle"), "key", example=EXAMPLE)
    place = store.models.logged_model(store.models.get("tiny", version)).artifact_location
    shutil.rmtree(folder / "bundle")
    return mlflow.pyfunc.load_model(place)


def answer(model: Any, body: str) -> tuple[int, str]:
    """Status and text that the server would give back."""
    with no_hang():
        try:
            given = invocations(body, "application/json", model, model.metadata.get_input_schema())
        except MlflowException as error:
            return error.get_http_status_code(), str(error)
    return given.status, given.response


def ask(model: Any, payload: Any) -> None:
    """What MLflow's scoring server does with a request."""
    status, text = answer(model, json.dumps(payload))
    assert status in (200, 400), text
    if status == 200:
        for row in json.loads(text)["predictions"]:
            assert list(row) == ["prediction", "score", "truncated", "abstain"]
            assert 0 <= row["score"] <= 1


@given(records=st.lists(likely | rows, max_size=4))
@example(records=[{"task": "colour", "input": "\ud800"}])
@example(records=[{"task": "thing", "input": "\ud800"}])
@example(records=[{"task": "thing", "input": "\0"}])
def test_any_records(model: Any, records: list[Any]) -> None:
    ask(model, {"dataframe_records": records})


@given(columns=st.dictionaries(st.sampled_from(["task", "input", "x"]), st.lists(anything, max_size=3), max_size=3))
def test_any_columns(model: Any, columns: dict[str, Any]) -> None:
    ask(model, {"inputs": columns})


@given(payload=anything)
def test_any_body(model: Any, payload: Any) -> None:
    ask(model, payload)
