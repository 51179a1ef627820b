"""Several domains in one run: how each ends, and how the whole does."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.context import TagsContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, State

from flows import many
from flows.deployments import deploy
from flows.production.outcome import Outcome
from tests.flows.conftest import Read


@pytest.mark.parametrize(("codes", "whole"), [([0, 0], 0), ([0, 2], 2), ([2, 2], 2), ([1, 2], 1), ([2, 3, 0], 1)])
def test_the_whole_ends_well_only_where_each_did(codes: list[int], whole: int) -> None:
    assert many.exit_code([many.Ended("x", None, "", code) for code in codes]) == whole


def test_a_defect_in_one_domain_fails_it_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def produced(plan: Any, _: Any) -> Outcome:
        if plan.spec.name == "a":
            raise ZeroDivisionError("x")
        return Outcome("b", "champion", 1, "key", reason="fine")

    monkeypatch.setattr(many, "produce_here", produced)
    monkeypatch.setattr(many, "unchanged", lambda _: None)
    plans: Any = [SimpleNamespace(spec=SimpleNamespace(name=name), file=name) for name in "ab"]
    assert [(one.domain, one.exit_code) for one in many.produce_each(plans, {}, lambda _: None)] == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(("state", "code"), [(Completed(), 0), (Failed(message="no rows"), 1)])
def test_a_deployed_run_that_fails_fails_here(state: State[Any], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def client() -> Iterator[Any]:
        yield SimpleNamespace(read_flow_run=lambda _: SimpleNamespace(state=state))

    run = SimpleNamespace(id="00000000-0000-0000-0000-000000000001")
    monkeypatch.setattr(deploy, "server_client", client)
    monkeypatch.setattr("prefect.deployments.run_deployment", lambda *_, **__: run)
    plan: Any = SimpleNamespace(spec=SimpleNamespace(name="tiny"), file="f")
    (one,) = many.produce_deployed([plan], {}, lambda _: None, lambda _: None)
    assert one.exit_code == code


def test_a_run_has_the_tag_by_which_status_finds_it(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    flow: Any = importlib.import_module("flows.produce")
    monkeypatch.setattr(flow, "produce", lambda *_, **__: {"tags": TagsContext.get().current_tags})
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):  # or a server would start, for nothing
        assert many.produce_here(read(), {}) == {"tags": {"alter", "domain:tiny"}}
