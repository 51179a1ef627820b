"""The flow itself, its steps left out: locks, who is told, and what a decision is made against."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from filelock import FileLock

from alter_core.errors import WorkspaceError
from flows import notify as notify_module
from registry.errors import AliasConflict
from tests.flows.conftest import Read

flow: Any = importlib.import_module("flows.produce")  # the package's name `produce` is the flow


def test_two_productions_of_a_domain_in_one_workspace_keep_out_of_each_others_way(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read()
    monkeypatch.setattr(flow, "close_abandoned", lambda _: None)
    monkeypatch.setattr(flow, "_produce", lambda *_: {})
    plan.lock_file.parent.mkdir(parents=True)
    with (
        FileLock(plan.lock_file, is_singleton=False),
        pytest.raises(WorkspaceError, match="tiny is being produced by another process"),
    ):
        flow.produce.fn(str(plan.file))
    assert flow.produce.fn(str(plan.file))["domain"] == "tiny"


@dataclass(frozen=True)
class FakeCandidate:
    """What `_produce` makes of its candidate."""

    plan: Any
    run_key: Any
    data: Any
    backbone: Any
    stages: Any
    scorecards: Any
    champion: Any
    started_from: Any
    own: ClassVar[dict[str, Any]] = {"samples": []}

    def decide(self) -> dict[str, Any]:
        return {"promote": True, "reason": f"against {self.scorecards['champion']}"}

    def card_facts(self, _run: str) -> dict[str, Any]:
        return {"created": "then"}


def test_a_champion_that_was_made_meanwhile_is_scored_and_decided_against(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    champions = iter([{"version": 1, "tags": {}}, {"version": 2, "tags": {}}])

    @contextmanager
    def mlflow_run(*_: object) -> Iterator[Any]:
        tracker = SimpleNamespace(tracking_uri="", experiment_id="")
        yield SimpleNamespace(id="r", tracker=tracker, log_training=nothing)

    def nothing(*_: object) -> None:
        return None

    def promote(one: Any, version: int, decision: Any) -> bool:
        calls.append(("promote", version, one.champion["version"], decision["reason"]))
        if one.champion["version"] == 1:
            raise AliasConflict("another was first")
        return True

    def step(name: str, gives: Any = None) -> Any:
        return lambda *_: calls.append(name) or gives

    monkeypatch.setattr(flow, "Candidate", FakeCandidate)
    monkeypatch.setattr(flow, "_scores", lambda *given: ({"champion": given[-1]["version"]}, {}))
    monkeypatch.setattr(flow, "artifacts", SimpleNamespace(links=nothing))
    steps = {"prepare_backbone": lambda _: {"digest": "b"}, "ingest": lambda _: {"digest": "d"}}
    steps |= {"validate": lambda *_: {}, "train": lambda *_: {"bundle": "x", "cost": {}}, "say": nothing}
    monkeypatch.setattr(flow, "steps", SimpleNamespace(**steps, Start=SimpleNamespace(at=nothing)))
    publish = {"champion": lambda _: next(champions), "is_unsettled": lambda *_: False, "mlflow_run": mlflow_run}
    publish |= dict.fromkeys(("settled", "champion_profile", "first_start"), nothing)
    publish |= {"register": step("register", 3), "verify": step("verify"), "settle": step("settle")}
    monkeypatch.setattr(flow, "publish", SimpleNamespace(**publish, promote=promote))
    spec = SimpleNamespace(name="tiny")
    plan: Any = SimpleNamespace(run_key=lambda *_: "key", stages=lambda: ["stage_one"], spec=spec)
    outcome = flow._produce(plan, False, 1)
    assert calls == ["register", "verify", ("promote", 3, 1, "against 1"), ("promote", 3, 2, "against 2"), "settle"]
    assert (outcome["status"], outcome["reason"]) == ("champion", "against 2")


def test_somebody_is_told_however_a_run_ends_badly() -> None:
    hooks = flow.produce.on_failure_hooks, flow.produce.on_crashed_hooks, flow.produce.on_cancellation_hooks
    assert hooks == ([notify_module.notify],) * 3


def test_a_block_that_cannot_tell_does_not_hide_how_the_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("no such block")

    monkeypatch.setenv("ALTER_NOTIFY_BLOCK", "slack-webhook/x")
    monkeypatch.setattr(notify_module.Block, "load", broken)
    run: Any = SimpleNamespace(name="run")
    state: Any = SimpleNamespace(name="Failed", message="why")
    notify_module.notify(None, run, state)
