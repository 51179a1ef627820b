"""A real uvicorn server on loopback with champions of the tiny domain, whose two versions answer differently."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from alter_core.inference.predict import Predictor
from flows.serving.app import Endpoint, Limits
from flows.serving.request_log import RequestLog
from flows.serving.server import bound, server_of
from registry.facts import CardFacts
from tests.conftest import tiny_rows
from tests.registry.conftest import EXAMPLE, Store, make_bundle
from tests.registry.facts import card_facts

SECONDS = 240.0  # far above what anything takes: a busy machine is no failure
ROWS = [(task, row["input"]) for task, lines in tiny_rows().items() for row in lines[:4]]
"""(task, input) of all tasks."""


@dataclass(frozen=True)
class Running:
    """An endpoint that listens."""

    endpoint: Endpoint
    url: str

    def ask(self, rows: Any, path: str = "/invocations", **more: Any) -> requests.Response:
        """MLflow's request for (task, input) rows."""
        records = [{"task": task, "input": text} for task, text in rows]
        return requests.post(f"{self.url}{path}", json={"dataframe_records": records}, timeout=SECONDS, **more)

    def metric(self, name: str) -> float:
        """The value of a series, such as `alter_requests_total{path="/ping",status="200"}`; 0 before its first."""
        text = self.endpoint.metrics.page().decode()
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


@contextmanager
def running(
    home: Path, *domains: str, token: str | None = None, log: RequestLog | None = None, **limits: Any
) -> Iterator[Running]:
    """An endpoint in a thread of this process, drained at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALTER_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        endpoint = Endpoint(list(domains or ["tiny"]), Limits(**limits), token, log)
    listener, server = bound("127.0.0.1", 0), server_of(endpoint)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield Running(endpoint, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(SECONDS)


def until(reached: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def other_bundle(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `bundle`, with other adapters."""
    return make_bundle(tiny_backbone, tmp_path_factory.mktemp("other") / "bundle", seed=2)


@pytest.fixture(scope="session")
def samples(bundle: Path, other_bundle: Path) -> dict[str, list[Any]]:
    """Version by its name -> what it answers to ROWS, as a registered version records it."""
    tasks, inputs = zip(*ROWS, strict=True)
    made = {}
    for number, one in enumerate((bundle, other_bundle), 1):
        answers = Predictor.from_bundle(one).predict(tasks, inputs)
        made[f"tiny/{number}"] = [
            {"task": task, "input": text, "prediction": answer.text, "score": answer.score}
            for (task, text), answer in zip(ROWS, answers, strict=True)
        ]
    return made


def facts_of(samples: list[Any]) -> CardFacts:
    """What a version records, with these predictions."""
    facts = card_facts("tiny")
    return {**facts, "scorecards": {"stage_two": {**facts["scorecards"]["stage_two"], "samples": samples}}}


@pytest.fixture(scope="session")
def answers(samples: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Version by its name -> its answers to ROWS."""
    found = {name: [row["prediction"] for row in rows] for name, rows in samples.items()}
    assert found["tiny/1"] != found["tiny/2"]
    return found


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    empty_store: Path,
    bundle: Path,
    other_bundle: Path,
    samples: dict[str, list[Any]],
) -> Store:
    """The registry of a workspace: `tiny` with versions 1 (champion) and 2."""
    made = Store(tmp_path_factory.mktemp("home") / "mlflow", empty_store)
    for number, one in enumerate((bundle, other_bundle), 1):
        facts = facts_of(samples[f"tiny/{number}"])
        assert made.register(one, f"key{number}", example=EXAMPLE, facts=facts) == number
    made.models.set_champion("tiny", 1, None)
    return made


@pytest.fixture(scope="module")
def home(store: Store) -> Path:
    """The workspace."""
    return store.folder.parent


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Running]:
    """An endpoint that every test of a file asks; version 1 answers."""
    with running(home) as one:
        yield one
