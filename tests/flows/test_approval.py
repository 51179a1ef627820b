"""Versions that wait as paused runs on a real Prefect server. What a worker does is done in the test's process."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from flows import approval, publish
from flows.cli import registry
from flows.deployments.deploy import deploy
from flows.production import decisions, review
from tests.flows.server import Factory, factory
from tests.flows.waiting import Team
from tests.registry.conftest import Store

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    with factory(tmp_path_factory.mktemp("works")) as made, temporary_settings({PREFECT_API_URL: made.url}):
        yield made


class Pages:
    """What a person sees and does in Prefect's pages, and the worker."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client

    def open(self) -> list[FlowRun]:
        """Runs that ask for a person's word."""
        return approval._open(self.client, "tiny")

    def work(self, run: FlowRun) -> State[Any]:
        """What the run comes to once a worker has taken it."""
        self.client.set_flow_run_state(run.id, Pending())
        with suppress(Pause):
            run_flow(approval.ask, flow_run=self.client.read_flow_run(run.id), return_type="state")
        return self.state(run)

    def state(self, run: FlowRun) -> State[Any]:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def form(self, run: FlowRun) -> str:
        """What stands above the form of a run that is paused."""
        keys = self.state(run).state_details.run_input_keyset
        assert keys is not None
        answer = self.client._client.get(f"/flow_runs/{run.id}/input/{keys['description']}")
        return str(answer.json())

    def answer(self, run: FlowRun, decision: str, reviewer: str, reason: str = "") -> State[Any]:
        resume_flow_run(run.id, {"decision": decision, "reviewer": reviewer, "reason": reason})
        return self.work(run)


@pytest.fixture
def pages(works: Factory, team: Team) -> Iterator[Pages]:
    """Of a server on which the team's domain is deployed."""
    deploy([str(team.made.plan.file)], "alter")
    with get_client(sync_client=True) as client:
        approval.end_all(client, "tiny", "of another test")
        yield Pages(client)


def test_a_person_sees_what_waits_and_promotes_it(team: Team, pages: Pages) -> None:
    team.candidate(0.6)
    (run,) = pages.open()
    assert run.name == "tiny version 1 for approval"
    assert pages.work(run).name == "Suspended"
    form = pages.form(run)
    assert "**Waits for approval** by ada, bob until 2026-01-15 00:00 UTC" in form
    assert "- intent (accuracy): 0.600\n" in form
    state = pages.answer(run, "promote", "ada", "read 50 answers")
    assert (state.is_completed(), state.message) == (True, "tiny version 1 is champion now: read 50 answers")
    assert (team.waiting(), team.champion()) == (None, 1)
    assert team.card(1).endswith("Decided by ada, as typed in Prefect: read 50 answers")


def test_an_answer_that_may_not_stand_is_told_and_asked_for_again(team: Team, pages: Pages) -> None:
    team.candidate(0.6)
    (run,) = pages.open()
    pages.work(run)
    for name, reason, told in (
        ("eve", "please", "is for ada, bob to decide on (promotion &gt; reviewers), and this is eve"),
        ("ada", " ", "say why"),
    ):
        assert pages.answer(run, "reject", name, reason).is_paused()
        assert "**Your answer was not taken**" in pages.form(run)
        assert told in pages.form(run)
        assert (team.waiting(), team.champion()) == (1, None)
    state = pages.answer(run, "reject", "bob", "it invents dates")
    assert (state.is_completed(), state.message) == (True, "tiny version 1 is rejected: it invents dates")
    assert team.card(1).startswith("**Rejected** on 2026-01-01 by bob, as typed in Prefect: it invents dates.")


def test_where_the_store_has_accounts_the_form_says_who_can_decide_and_decides_nothing(
    team: Team, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (approval, review):
        monkeypatch.setattr(module, "account", lambda _: "ada")  # of the worker
    team.candidate(0.6)
    (run,) = pages.open()
    pages.work(run)
    assert "**This form cannot decide**" in pages.form(run)
    assert "`alter promote tiny 1 --reason TEXT`" in pages.form(run)
    assert pages.answer(run, "promote", "ada", "please").is_paused()
    assert (team.waiting(), team.champion()) == (1, None)


def test_a_run_ends_when_its_version_is_decided_elsewhere_replaced_or_put_aside(
    team: Team, pages: Pages, works: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", works.url)
    team.candidate(0.6)
    (first,) = pages.open()
    pages.work(first)
    team.candidate(0.7)
    state, (second,) = pages.state(first), pages.open()
    assert (state.is_completed(), state.message) == (
        True,
        "tiny version 1: replaced by version 2 before anybody decided",
    )
    registry._tell(decisions.reject("tiny", None, "it invents dates"))
    assert pages.state(second).message == "tiny version 2: rejected by ada: it invents dates"
    team.candidate(0.8)
    (third,) = pages.open()
    pages.work(third)
    team.clock.time += timedelta(days=15)
    publish.put_aside(team.made.plan, team.made.stores)
    assert pages.state(third).message == ("tiny version 3: put aside: nobody decided until 2026-01-15 00:00 UTC")
    assert pages.open() == []


def test_a_run_whose_version_waits_no_longer_ends_at_once_when_it_goes_on(team: Team, pages: Pages) -> None:
    team.candidate(0.6)
    (run,) = pages.open()
    pages.work(run)
    decisions.promote("tiny", None, "at a terminal that names no Prefect server")
    state = pages.answer(run, "reject", "bob", "too late")
    assert (state.is_completed(), state.message) == (
        True,
        "tiny version 1: promoted by ada: at a terminal that names no Prefect server",
    )
    assert team.champion() == 1


def test_there_is_one_run_for_a_version_and_those_of_another_store_are_left_alone(
    team: Team, pages: Pages, tmp_path: Path, empty_store: Path
) -> None:
    team.candidate(0.6)
    approval.show(team.store.models, "tiny")
    (run,) = pages.open()
    another = Store(tmp_path / "another", empty_store)
    another.register(team.parts, "key")
    approval.show(another.models, "tiny")
    assert [one.id for one in pages.open()] == [run.id]
    decisions.promote("tiny", None, None)
    approval.show(another.models, "tiny")
    assert [one.id for one in pages.open()] == [run.id]
    approval.show(team.store.models, "tiny")
    assert pages.open() == []


def test_where_nothing_is_deployed_a_version_waits_as_ever(team: Team, pages: Pages) -> None:
    pages.client.delete_deployment(pages.client.read_deployment_by_name("review/tiny").id)
    assert team.candidate(0.6) == "waiting"
    assert (team.waiting(), pages.open()) == (1, [])
