"""Candidates that wait for a person's word, on a real store, with a clock that the tests move."""

from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from alter_core.errors import AlterError
from flows import publish
from flows.deployments.status import print_status, status
from flows.production import decisions, review, watch
from flows.production.earlier import stands
from registry.errors import AliasConflict, RegistryInputError
from registry.promotion import Decision
from tests.flows.waiting import RISES, Team


def test_a_candidate_that_passes_the_rule_waits_and_its_card_and_status_say_for_whose_word(
    team: Team, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_runs = SimpleNamespace(read_flow_runs=lambda **_: [])
    monkeypatch.setattr("flows.deployments.status.get_client", lambda **_: nullcontext(no_runs))
    assert team.candidate(0.6) == "waiting"
    assert (team.waiting(), team.champion()) == (1, None)  # also the first of a domain
    assert team.card(1) == (
        "**Waits for approval** by ada, bob until 2026-01-15 00:00 UTC, with alter promote or alter reject. "
        "The rule: macro score +0.010."
    )
    rows = status([str(team.made.plan.file)])
    assert (rows[0].waiting, rows[0].reviewers, rows[0].waiting_until) == (1, "ada,bob", "2026-01-15T00:00:00.000Z")
    print_status(rows)
    assert "tiny: version 1 waits for approval by ada, bob, until 2026-01-15 00:00 (UTC)" in capsys.readouterr().out
    assert decisions.promote("tiny", None, "read 50 answers").text == "tiny version 1 is champion now: read 50 answers"
    assert (team.waiting(), team.champion()) == (None, 1)
    assert team.card(1).endswith("Decided by ada: read 50 answers")


def test_a_person_says_no_with_a_reason_and_what_was_rejected_is_not_made_again(team: Team) -> None:
    team.candidate(0.6)
    with pytest.raises(AlterError, match="say why with --reason"):
        decisions.reject("tiny", None, " ")
    assert decisions.reject("tiny", None, "it invents dates").text == "tiny version 1 is rejected: it invents dates"
    assert team.waiting() is None
    assert team.card(1).startswith("**Rejected** on 2026-01-01 by ada: it invents dates. The rule: ")
    assert stands(team.store.models.get("tiny", 1), None, review=True)
    with pytest.raises(RegistryInputError, match="no version of tiny waits for a decision"):
        decisions.reject("tiny", None, "again")
    with pytest.raises(AliasConflict, match="tiny version 1 waits for no decision"):
        decisions.reject("tiny", "1", "again")
    decisions.promote("tiny", "1", "they were right after all")
    assert team.card(1).startswith("**Promoted to champion**: ")


def test_who_is_not_named_may_neither_promote_nor_reject(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.candidate(0.6)
    team.candidate(0.5, Decision(False, "it falls"))
    monkeypatch.setenv("LOGNAME", "eve")
    for which in (None, "challenger"):
        with pytest.raises(
            AlterError, match=r"is for ada, bob to decide on \(promotion > reviewers\), and this is eve"
        ):
            decisions.promote("tiny", which, "please")
        with pytest.raises(AlterError, match="this is eve; ask one of them"):
            decisions.reject("tiny", which, "please")
    assert (team.waiting(), team.champion()) == (1, None)


def test_a_name_that_is_typed_is_recorded_as_such_and_decides_nothing_where_there_are_accounts(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.candidate(0.6)
    with pytest.raises(AlterError, match="and this is eve; ask one of them"):
        decisions.promote("tiny", None, None, "eve")
    with pytest.raises(AlterError, match="say who decides"):
        decisions.reject("tiny", None, "it invents dates", " ")
    with monkeypatch.context() as patch:
        patch.setattr(review, "account", lambda _: "ada")  # of the worker
        for decide in (decisions.promote, decisions.reject):
            with pytest.raises(AlterError, match=r"has accounts, .* by `alter promote tiny 1 --reason TEXT`"):
                decide("tiny", None, "please", "ada")
    assert (team.waiting(), team.champion()) == (1, None)
    decisions.promote("tiny", None, "read 50 answers", " ada ")
    assert team.card(1).endswith("Decided by ada, as typed in Prefect: read 50 answers")


def test_a_newer_candidate_replaces_the_one_that_waits_and_a_refused_one_does_not(team: Team) -> None:
    team.candidate(0.6)
    assert team.candidate(0.5, Decision(False, "it falls")) == "candidate"
    assert team.waiting() == 1
    assert team.candidate(0.7) == "waiting"
    assert team.waiting() == 3
    assert team.card(1).startswith("**Not decided** as it was replaced by version 3 before anybody decided.")
    assert not stands(team.store.models.get("tiny", 1), None, review=True)  # should its rows come back


def test_nothing_waits_for_ever(team: Team) -> None:
    team.candidate(0.6)
    team.clock.time += timedelta(days=13)
    team.candidate(0.6)  # made again: its time goes on
    assert team.store.models.get("tiny", 1)["tags"]["review_until"].startswith("2026-01-15")
    team.clock.time += timedelta(days=2)
    publish.put_aside(team.made.plan, team.made.stores)
    assert team.waiting() is None
    assert team.card(1).startswith("**Not decided** as it was put aside: nobody decided until 2026-01-15 00:00 UTC.")
    assert stands(team.store.models.get("tiny", 1), None, review=True)  # and a run of the same does not ask again
    decisions.promote("tiny", "1", "late, but good")
    assert team.champion() == 1


def test_a_look_at_a_domain_that_nobody_runs_ends_the_wait_unless_a_run_is_on(team: Team) -> None:
    team.candidate(0.6)
    plan = team.made.plan
    assert watch.put_aside(plan) is None
    team.clock.time += timedelta(days=15)
    plan.lock_file.parent.mkdir(parents=True)
    with FileLock(plan.lock_file):  # of a run, which has put it aside itself where it was due
        assert watch.put_aside(plan) is None
    assert team.waiting() == 1
    waited = watch.put_aside(plan)
    assert waited is not None
    assert (waited["version"], team.waiting()) == (1, None)
    assert team.card(1).startswith("**Not decided** as it was put aside: nobody decided until 2026-01-15 00:00 UTC.")
    assert watch.put_aside(plan) is None


def test_what_waits_is_decided_by_the_rule_once_the_spec_asks_nobody(team: Team) -> None:
    team.candidate(0.6)
    version = team.store.models.get("tiny", 1)
    assert stands(version, None, review=True)
    assert not stands(version, None, review=False)
    assert not stands(version, {**version, "version": 9}, review=True)  # held against a champion of before


def test_an_approval_that_comes_after_another_champion_is_asked_of_the_rule_again(team: Team) -> None:
    team.candidate(0.7)
    decisions.promote("tiny", None, None)
    team.candidate(0.9)
    team.store.models.set_champion("tiny", 1, 1)
    stale: Any = SimpleNamespace(production=team.made, champion=None)
    assert publish.promote.fn(stale, 2, RISES) == "overtaken"  # held against no champion, and there is one
    assert decisions.promote("tiny", "review", None).text.startswith("tiny version 2 is champion now: macro score +0.2")
