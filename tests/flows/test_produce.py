"""The flow itself: locks, who is told, and what a decision is made against."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
from filelock import FileLock, Timeout
from prefect import tags
from prefect.context import TagsContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from alter_core.errors import AlterError, WorkspaceError
from flows import notify as notify_module
from flows.production.candidate import Candidate
from flows.production.production import Quality
from flows.production.stage import Stage
from registry.promotion import Decision
from tests.flows.conftest import Produce, Read, trained
from tests.registry.facts import scorecard

flow: Any = importlib.import_module("flows.produce")  # the package's name `produce` is the flow


def test_two_productions_of_a_domain_in_one_workspace_keep_out_of_each_others_way(read: Read) -> None:
    plan = read()
    plan.lock_file.parent.mkdir(parents=True)
    lock = FileLock(plan.lock_file, is_singleton=False)
    with lock, pytest.raises(WorkspaceError, match="tiny is being produced by another process"):
        flow.produce.fn(str(plan.file))
    with flow._alone(plan), pytest.raises(Timeout):
        lock.acquire(timeout=0)
    lock.acquire(timeout=0)
    lock.release()


def test_steps_have_no_tags_though_the_run_has(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Prefect asks its server before each step what limits they have."""

    def first_step(*_: object) -> None:
        raise AlterError(f"tags {sorted(TagsContext.get().current_tags)}")

    monkeypatch.setattr(flow, "close_abandoned", first_step)
    with tags("alter"), pytest.raises(AlterError, match=r"tags \[\]"):
        flow.produce.fn(str(read().file))


def test_a_champion_that_was_made_meanwhile_is_scored_and_decided_against(
    production: Produce, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps as they follow each other: what they do in MLflow and in processes of their own is left out."""
    calls: list[Any] = []
    champions = iter([{"version": number, "tags": {}} for number in (1, 2)])
    levels = iter((0.5, 0.6))

    @contextmanager
    def mlflow_run(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(id="r", log_training=lambda *_: None)

    def promote(one: Candidate, version: int, decision: Decision) -> str:
        score = round(decision.numbers["tasks"]["intent"]["champion"], 6)
        calls.append(("promote", version, one.champion and one.champion["version"], score))
        return "overtaken" if len(calls) == 3 else "champion"

    def evaluate(_: object, bundles: dict[str, Any], own: str) -> dict[str, Any]:
        assert own == "stage_two"
        assert bundles == {
            "zero_shot": None,
            "bag_of_words": None,
            "stage_one": ANY,
            "stage_two": ANY,
            "champion": str(bundle),
        }
        return {"stage_two": scorecard(0.7, 4), "champion": scorecard(next(levels), 1)}

    def step(name: str, gives: Any = None) -> Any:
        return lambda *_: calls.append(name) or gives

    def train(_: object, name: str, *__: object) -> Stage:
        return trained(tmp_path / name)

    quality = Quality(tmp_path, "ok", (), {}, {})
    steps = SimpleNamespace(validate=lambda *_: quality, train=train, evaluate=evaluate)
    publish = SimpleNamespace(champion=lambda _: next(champions), already_made=lambda *_: None, mlflow_run=mlflow_run)
    vars(publish).update(register=step("register", 3), verify=step("verify"), promote=promote, settle=step("settle"))
    publish.verification = lambda _: nullcontext()
    monkeypatch.setattr(flow, "steps", steps)
    monkeypatch.setattr(flow, "publish", publish)
    monkeypatch.setattr(flow.artifacts, "links", lambda *_: None)
    models = SimpleNamespace(bundle_path=lambda *_: bundle)
    outcome = flow.make(production(stores=SimpleNamespace(models=models)))
    assert calls == ["register", "verify", ("promote", 3, 1, 0.5), ("promote", 3, 2, 0.6), "settle"]
    assert (outcome.status, outcome.version) == ("champion", 3)


def test_somebody_is_told_however_a_run_ends_badly() -> None:
    hooks = flow.produce.on_failure_hooks, flow.produce.on_crashed_hooks, flow.produce.on_cancellation_hooks
    assert hooks == ([notify_module.notify],) * 3


def test_a_block_that_cannot_tell_does_not_hide_how_the_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTER_NOTIFY_BLOCK", "slack-webhook")  # TYPE without its NAME
    run: Any = SimpleNamespace(name="run")
    state: Any = SimpleNamespace(name="Failed", message="why")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        notify_module.notify(None, run, state)
