"""What a production finds of versions that were decided upon: flows/publish.py on a real store."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.workspace import Workspace
from flows import publish
from flows.publish import SETTLED, is_unsettled, settled
from tests.registry.conftest import Store
from tests.registry.facts import card_facts, scorecard


@pytest.fixture
def plan(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(publish, "say", lambda _: None)  # there is no flow run whose log it could go to
    return SimpleNamespace(spec=SimpleNamespace(name="tiny"), workspace=Workspace(tmp_path))


def test_of_two_versions_of_one_run_key_the_newest_tells_whether_there_is_something_to_do(
    store: Store, parts: Path, plan: Any
) -> None:
    store.register(parts, "key")
    store.models.tag("tiny", 1, {SETTLED: "yes", "decision_reason": "there is no champion yet"})
    assert (settled(plan, "key") or {})["version"] == 1
    (parts / "bundle.json").write_text('{"weights": "other"}')
    assert store.register(parts, "key") == 2  # and its production was killed
    assert settled(plan, "key") is None
    assert not is_unsettled(store.models.get("tiny", 1), "key")
    store.models.tag("tiny", 2, {SETTLED: "yes"})
    assert (settled(plan, "key") or {})["version"] == 2


def test_a_champion_that_is_made_again_to_the_bit_keeps_what_was_decided_of_it(
    store: Store, parts: Path, plan: Any
) -> None:
    store.register(parts, "key")
    candidate: Any = SimpleNamespace(plan=plan, champion=None)
    assert publish.promote.fn(candidate, 1, {"promote": True, "reason": "there is no champion yet"})
    before = store.models.get("tiny", "champion")
    candidate.champion = before
    assert publish.promote.fn(candidate, 1, {"promote": True, "reason": "macro score +0.000"})
    assert store.models.get("tiny", "champion") == before
    assert before["tags"]["champion_before"] == "none"


def test_the_card_of_a_champion_that_is_made_again_to_the_bit_does_not_hold_it_against_itself(
    store: Store, parts: Path, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "create_markdown_artifact", lambda *_, **__: None)
    facts = card_facts("tiny")
    store.register(parts, "key", facts=facts)
    publish.settle.fn(plan, 1, facts)
    card = store.models.get("tiny", 1)["description"]
    again: Any = {**facts, "champion_version": 1, "scorecards": {**facts["scorecards"], "champion": scorecard(0.7, 4)}}
    publish.settle.fn(plan, 1, again)
    assert store.models.get("tiny", 1)["description"] == card


def test_a_version_that_is_refused_becomes_challenger_and_carries_this_decision_alone(
    store: Store, parts: Path, plan: Any
) -> None:
    store.register(parts, "k1")
    store.models.set_champion("tiny", 1, None)
    store.register(parts, "k2")
    store.models.tag("tiny", 2, {"promoted_by": "Ada", "promotion_reason": "then"})
    candidate: Any = SimpleNamespace(plan=plan, champion=store.models.get("tiny", 1))
    assert not publish.promote.fn(candidate, 2, {"promote": False, "reason": "it falls"})
    challenger, champion = store.models.alias("tiny", "challenger"), store.models.alias("tiny", "champion")
    assert challenger
    assert champion
    assert (challenger["version"], champion["version"]) == (2, 1)
    wanted = {"champion_before": "1", "decision": "keep", "decision_reason": "it falls", "promoted_by": ""}
    assert wanted.items() <= challenger["tags"].items()
