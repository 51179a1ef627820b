"""Steps of a production that other steps rely on, each for itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.errors import AlterError, QualityBlocked
from flows import steps
from registry.errors import StoreUnavailable
from tests.flows.conftest import Read


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no flow run that progress could be told to."""
    monkeypatch.setattr(steps, "Follower", lambda *_: None)
    monkeypatch.setattr(steps, "say", lambda _: None)


def test_data_that_a_check_blocks_are_blocked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked() -> None:
        raise QualityBlocked("no")

    found = {"outcome": "block", "warnings": [], "profile": {}, "drift": {}}
    report = SimpleNamespace(write=lambda _: None, raise_if_blocked=blocked, to_json=lambda: found)
    plan: Any = SimpleNamespace(run_folder=lambda _: tmp_path, quality_key=lambda *_: "k", spec=None)
    monkeypatch.setattr(steps, "check_quality", lambda *_: report)
    monkeypatch.setattr(steps.artifacts, "quality_summary", lambda *_: None)
    monkeypatch.setattr("alter_core.data.dataset.TaskDataset.open", lambda _: None)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: None)
    for _ in range(2):
        with pytest.raises(QualityBlocked):
            steps.validate.fn(plan, {"path": "x"}, {"digest": "b", "path": "y"}, None, None)


def test_models_are_scored_on_test_rows(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    monkeypatch.setattr(steps, "run_job", lambda _command, job, *_: jobs.append(job))
    data = {"digest": "d", "path": "data", "labels": {"colour": ["red"], "match": ["yes", "no"]}}
    steps.evaluate.fn(read(), data, {"digest": "b", "path": "backbone"}, {"zero_shot": None})
    assert [job.split for job in jobs] == ["test"]


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (OSError("disk"), True),
        (StoreUnavailable("busy"), True),
        (AlterError("wrong"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(error: Exception, heals: bool) -> None:
    def result() -> None:
        raise error

    state: Any = SimpleNamespace(result=result)
    assert steps._heals(None, None, state) == heals
