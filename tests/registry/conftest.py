"""A real MLflow store on SQLite for each test, and a real, tiny bundle to register."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from alter_core.mta import MTAConfig, inject, save_bundle
from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from alter_core.spec import DomainSpec
from registry.models import ModelStore
from registry.scorecard import Sample
from registry.store import open_client
from registry.tracking import Tracker
from registry.verification import SECONDS, fresh_process
from tests.conftest import COLOURS, tiny_spec

EXAMPLE = {"task": "colour", "input": "the red ball is in the hall"}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, one for all workers: making them takes seconds, copying does not."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in that of the session
        session = session.parent
    file, making = session / "empty.db", session / "being-made.db"
    with FileLock(session / "empty.lock"):
        if not file.exists():
            open_client(f"sqlite:///{making}")
            shutil.copy(making, file)
    return file


def verify_in_fresh_process(
    uri: str, domain: str, version: int, samples: Sequence[Sample], timeout: float = SECONDS
) -> dict[str, float]:
    """As a production does, with nothing beside it."""
    with fresh_process(uri, timeout=timeout) as repeats:
        return repeats(domain, version, samples)


class Store:
    """One MLflow store with the two sides that the flow sees."""

    def __init__(self, folder: Path, empty: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty, folder / "mlflow.db")
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.models = ModelStore(self.uri)

    def tracker(self, experiment: str = "tiny") -> Tracker:
        return Tracker(self.uri, str(self.folder / "artifacts"), experiment)

    def register(self, bundle: Path, key: str, domain: str = "tiny", **more: Any) -> int:
        """Register under a run of its own."""
        tracker = self.tracker(domain)
        run = tracker.start_run(f"{domain} {key}", {}, {})
        version = self.models.register(
            domain, run, bundle, run_key=key, **{"card": f"# {domain}\n", "tags": {"macro": 0.5}, **more}
        )
        tracker.end_run(run, "FINISHED")
        return version


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    return Store(tmp_path / "mlflow", empty_store)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder that stands for a bundle where nothing loads it."""
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    (folder / "mta.safetensors").write_bytes(b"\0" * 64)
    return folder


@pytest.fixture(scope="session")
def bundle(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of the tiny domain, its adapters random and different."""
    return make_bundle(tiny_backbone, tmp_path_factory.mktemp("bundle") / "bundle")


def make_bundle(backbone: Path, target: Path, seed: int = 1) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = tiny_spec(backbone)
    for task in plain["tasks"]:
        task["max_input_tokens"] = 96  # the tiny backbone reads 256 tokens, prompt and answer together
    spec = DomainSpec.model_validate(plain).with_labels({"colour": COLOURS, "match": ("yes", "no")})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(backbone)
    mta = inject(model, MTAConfig.model_validate(spec.mta.model_dump()), spec.task_names)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".tasks." in name or ".shared." in name:
                parameter.add_(torch.randn_like(parameter) * 0.5)
    told = {TEMPERATURES: {"colour": 2.0, "match": 0.7}, ABSTAIN_BELOW: {"colour": 0.4}}
    metadata = {"spec": spec.model_dump(mode="json"), **told}
    save_bundle(mta, AutoTokenizer.from_pretrained(backbone), target, metadata)
    return target


@pytest.fixture
def parallel() -> Callable[..., None]:
    """Run functions at once, each in a thread, and raise what one of them raises."""
    from concurrent.futures import ThreadPoolExecutor

    def run(*functions: Callable[[], object]) -> None:
        with ThreadPoolExecutor(len(functions)) as pool:
            for future in [pool.submit(function) for function in functions]:
                future.result()

    return run
