"""The tiny domain: its plan, a production of it that stands on nothing, and a stage that is trained."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from alter_core.training.result import RESULT_FILE, Score, StageCost, StageResult, Validation
from flows.production.plan import Plan
from flows.production.production import Backbone, Production, Rows
from flows.production.stage import Stage
from flows.production.stores import Stores
from tests.conftest import tiny_spec, write_domain
from tests.flows.waiting import team
from tests.registry.conftest import bundle, empty_store, parts, store

__all__ = ["bundle", "empty_store", "parts", "store", "team"]  # fixtures: a real store, what is registered, who decides

Read = Callable[..., Plan]
Produce = Callable[..., Production]


@pytest.fixture
def read(tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """A function that reads the plan of the tiny domain with some changes, in a workspace of the test's own."""
    monkeypatch.setenv("ALTER_HOME", str(tmp_path / "home"))

    def make(**changes: Any) -> Plan:
        return Plan.read(str(write_domain(tmp_path / "tiny", {**tiny_spec(tiny_backbone), **changes})))

    return make


@pytest.fixture
def production(read: Read) -> Produce:
    """A function that gives a production of the tiny domain, some parts of it others; its files are not there."""

    def make(plan: Plan | None = None, **changes: Any) -> Production:
        plan = plan or read()
        tasks = {
            name: {
                "rows": {"train": 9, "validation": 2, "test": 3},
                "sources": {"source": {"path": ["rows.jsonl"]}},
                "digest": f"rows of {name}",
            }
            for name in plan.spec.task_names
        }
        standing: dict[str, Any] = {
            "stores": Stores(plan.workspace, plan.spec.name),
            "backbone": Backbone(Path("backbone"), "tiny", None, "b", 10),
            "rows": Rows(Path("rows"), "d", {"colour": ("red",), "match": ("yes", "no")}, tasks),
        }
        return Production(plan, **{**standing, **changes})

    return make


def trained(folder: Path) -> Stage:
    """A stage as a finished training leaves it, but for its bundle, which holds nothing."""
    cost = StageCost(1.0, 1.0, 0.0, 1e12, 0.0, 0.0, 100.0, 5, {"adapters": 5}, 10, 2, 64, 900)
    validation = Validation({}, {"before": Score(0.5, {}), "opened": Score(0.4, {})}, (), 0)
    gates = {moment: {"layers.1": {"intent": {"intent": 0.7, "title": 0.3}}} for moment in ("before", "after")}
    result = StageResult("key", "stage_two", "fp32", None, "cpu", 1, validation, False, gates, "digest", None, cost)
    folder.mkdir()
    result.write(folder / RESULT_FILE)
    (folder / "metrics.jsonl").write_text('{"phase": "train", "step": 1, "loss": 0.5}\n')
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.json").write_text('{"metadata": {"key": "k"}}')
    return Stage(folder, result)


@pytest.fixture
def outside_a_flow() -> Iterator[None]:
    """What steps say goes nowhere: there is no flow run whose log it could go to."""
    with disable_run_logger():
        yield
