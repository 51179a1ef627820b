"""A registered model as services meet it: loaded by its URI, and served over HTTP by `mlflow models serve`."""

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from alter_core.inference.predict import Predictor
from flows.production.code_wheel import build_wheel, serving_requirements
from registry.scoring_model import _problems
from tests.conftest import tiny_rows
from tests.registry.conftest import EXAMPLE, Store
from tests.registry.server import environment, serving

URI = "models:/tiny@champion"


@pytest.fixture(scope="module")
def served_store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, bundle: Path) -> Store:
    folder = tmp_path_factory.mktemp("served")
    store = Store(folder / "mlflow", empty_store)
    wheel, needs = build_wheel(folder), serving_requirements()
    version = store.register(bundle, "key", code_wheel=wheel, requirements=needs, example=EXAMPLE)
    store.models.set_champion("tiny", version, None)
    return store


@pytest.fixture(scope="module")
def server(served_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` of the champion, far from the checkout; its address."""
    command = ("models", "serve", "-m", URI, "--env-manager", "local")
    with serving(tmp_path_factory.mktemp("serve"), "/ping", *command, MLFLOW_TRACKING_URI=served_store.uri) as address:
        yield address


def mixed_rows(count: int) -> list[dict[str, str]]:
    rows = [{"task": task, "input": row["input"]} for task, lines in tiny_rows().items() for row in lines]
    return random.Random(0).choices(rows, k=count)


def test_200_mixed_rows_over_http_equal_the_offline_predictions(server: str, bundle: Path) -> None:
    rows = mixed_rows(200)
    reply = requests.post(f"{server}/invocations", json={"dataframe_records": rows}, timeout=120)
    assert reply.status_code == 200, reply.text
    offline = Predictor.from_bundle(bundle).predict([r["task"] for r in rows], [r["input"] for r in rows])
    got = reply.json()["predictions"]
    assert [row["prediction"] for row in got] == [row.text for row in offline]
    assert [row["score"] for row in got] == pytest.approx([row.score for row in offline], abs=1e-5)
    assert [row["abstain"] for row in got] == [row.abstain for row in offline]
    assert {row.abstain for row in offline} == {True, False}
    assert len({row["prediction"] for row in got}) > 5  # answers differ, so equality says something


def test_an_over_long_input_is_answered_and_marked(server: str) -> None:
    rows = [EXAMPLE, {"task": "colour", "input": "the red ball " * 2000}]
    reply = requests.post(f"{server}/invocations", json={"dataframe_records": rows}, timeout=60)
    assert reply.status_code == 200, reply.text
    assert [row["truncated"] for row in reply.json()["predictions"]] == [False, True]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"dataframe_records": [{"task": "color", "input": "x"}]}, "no such task"),
        ({"dataframe_records": [EXAMPLE, {"task": "colour", "input": None}]}, "row 1: input must be a text, got null"),
        ({"dataframe_records": [EXAMPLE, {"task": "colour", "input": " "}]}, "row 1: input is empty"),
        ({"dataframe_split": {"columns": ["task", "input"], "data": []}}, "there are no rows"),
        ({"dataframe_records": [{"task": "colour"}]}, "input"),
        ({"dataframe_records": [{"task": "colour", "input": 3}]}, "input"),
        ({"dataframe_records": [{"task": "colour", "input": "x" * 1_000_001}]}, "1,000,001 characters"),
        ({"rows": [EXAMPLE]}, "dataframe_split"),
    ],
)
def test_a_bad_payload_is_refused_with_a_4xx_that_says_why(
    server: str, payload: dict[str, object], expected: str
) -> None:
    reply = requests.post(f"{server}/invocations", json=payload, timeout=60)
    assert 400 <= reply.status_code < 500
    assert expected in reply.text


def test_text_that_is_no_json_is_refused(server: str) -> None:
    reply = requests.post(
        f"{server}/invocations", data="{not json", headers={"Content-Type": "application/json"}, timeout=60
    )
    assert 400 <= reply.status_code < 500


ALONE = """
import json, sys
hidden, uri, row = json.loads(sys.argv[1])

class Only:
    # Finds what is not hidden and, of our own packages, what is in a wheel.
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):  # importlib.metadata asks it for distributions
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name == "alter_core":
            path = [place for place in sys.path if place.endswith(".whl")]
        elif name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)

sys.path[:] = [place for place in sys.path if place]
sys.meta_path[:] = [Only(finder) for finder in sys.meta_path if "editable" not in str(finder).lower()]
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(uri)
answer = model.predict(pd.DataFrame([row]))
import alter_core
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([alter_core.__file__, answer.to_dict("records"), loaded]))
"""


def brought_by(requirements: Iterable[str]) -> set[str]:
    """Top-level modules of what pip would install for `requirements`, taken from this environment."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in found:
            continue
        found.add(name)
        with suppress(PackageNotFoundError):  # of another system
            for part in map(Requirement, distribution(name).requires or ()):
                if not part.marker or any(part.marker.evaluate({"extra": extra}) for extra in ("", *need.extras)):
                    waiting.append(part)
    homes = packages_distributions().items()
    return {module for module, names in homes if found & {canonicalize_name(name) for name in names}}


def test_loading_by_uri_needs_no_checkout_and_nothing_but_what_is_required(served_store: Store, tmp_path: Path) -> None:
    """In a process where nothing can be imported but what the stored model asks for, its wheel answers."""
    model = served_store.models.bundle_path("tiny", "champion").parent.parent
    asked = [line for line in (model / "requirements.txt").read_text().splitlines() if not line.endswith(".whl")]
    (wheel,) = (model / "artifacts" / "code").glob("*.whl")
    with ZipFile(wheel) as files:
        (metadata,) = (files.read(name).decode() for name in files.namelist() if name.endswith("METADATA"))
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    wanted = brought_by([*asked, *(line.removeprefix("Requires-Dist: ") for line in needs)])
    unwanted = {"prefect", "great_expectations", "datasets", "peft", "accelerate", "rouge_score", "alter_core"}
    assert not unwanted & wanted
    assert {"torch", "transformers", "mlflow"} <= wanted
    ours = {"registry", "flows", "domains", "stack", "tests"}
    hidden = sorted({*packages_distributions(), *ours} - wanted - {"alter_core"})
    assert unwanted - {"alter_core"} <= set(hidden)
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps([hidden, URI, EXAMPLE])],
        env=environment(MLFLOW_TRACKING_URI=served_store.uri),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    where, answers, loaded = json.loads(ended.stdout.splitlines()[-1])
    assert ".whl" in where
    assert not unwanted - {"alter_core"} & set(loaded)
    assert answers[0]["prediction"] in ("red", "green", "blue")


def test_the_stored_model_holds_no_pickle(served_store: Store) -> None:
    model = served_store.models.bundle_path("tiny", "champion").parent.parent
    endings = {file.suffix for file in model.rglob("*") if file.is_file() and file.parent.name != "__pycache__"}
    assert endings <= {"", ".json", ".safetensors", ".py", ".md", ".txt", ".yaml", ".whl"}


def test_a_request_of_too_many_rows_is_refused() -> None:
    rows = pd.DataFrame([{"task": "t", "input": "x"}] * 10_001)
    assert _problems(rows) == ["10,001 rows in one request, at most 10,000 are taken: send several requests"]
    assert _problems(rows[1:]) == []
