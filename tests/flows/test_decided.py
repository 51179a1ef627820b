"""What a production decides of its version, and finds of those before: flows/publish.py on a real store."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import publish
from flows.production.earlier import SETTLED, bundle_to_compare, champion_profile, is_unsettled, settled
from flows.production.production import Production
from registry.promotion import Decision
from tests.flows.conftest import Produce
from tests.registry.conftest import Store
from tests.registry.facts import card_facts, scorecard


@pytest.fixture
def made(store: Store, production: Produce, outside_a_flow: None, monkeypatch: pytest.MonkeyPatch) -> Production:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return production()


def candidate(made: Production, champion: Any) -> Any:
    return SimpleNamespace(production=made, champion=champion)


def test_of_two_versions_of_one_run_key_the_newest_tells_whether_there_is_something_to_do(
    store: Store, parts: Path, made: Production
) -> None:
    key = made.run_key
    store.register(parts, key, facts=card_facts("tiny"))
    store.models.tag("tiny", 1, {SETTLED: "yes", "decision_reason": "there is no champion yet"})
    assert (settled(made) or {})["version"] == 1
    (parts / "bundle.json").write_text('{"weights": "other"}')
    assert store.register(parts, key, facts=card_facts("tiny")) == 2  # and its production was killed
    assert settled(made) is None
    assert not is_unsettled(store.models.get("tiny", 1), key)
    store.models.tag("tiny", 2, {SETTLED: "yes"})
    assert (settled(made) or {})["version"] == 2


def test_a_champion_whose_files_were_deleted_in_mlflow_does_not_end_a_run_and_is_not_unchanged(
    store: Store, parts: Path, made: Production
) -> None:
    store.register(parts, made.run_key)
    store.models.tag("tiny", 1, {SETTLED: "yes", "decision_reason": "there is no champion yet"})
    store.models.set_champion("tiny", 1, None)
    store.models.client.delete_logged_model(store.models.get("tiny", 1)["model_id"])
    champion = store.models.champion("tiny")
    assert "was deleted in MLflow" in made.trouble_with(1)
    assert settled(made) is None
    assert champion_profile(made, champion) is None
    assert bundle_to_compare(made, champion) is None


def test_a_champion_that_is_made_again_to_the_bit_keeps_what_was_decided_of_it(
    store: Store, parts: Path, made: Production
) -> None:
    store.register(parts, "key")
    first = publish.promote.fn(candidate(made, None), 1, Decision(True, "there is no champion yet"))
    before = store.models.get("tiny", "champion")
    again = publish.promote.fn(candidate(made, before), 1, Decision(True, "macro score +0.000"))
    assert (first, again) == ("champion", "champion")
    assert store.models.get("tiny", "champion") == before
    assert before["tags"]["champion_before"] == "none"


def test_the_card_of_a_champion_that_is_made_again_to_the_bit_does_not_hold_it_against_itself(
    store: Store, parts: Path, made: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "create_markdown_artifact", lambda *_, **__: None)
    facts = card_facts("tiny")
    store.register(parts, "key", facts=facts)
    publish.settle.fn(made, 1, facts)
    card = store.models.get("tiny", 1)["description"]
    again: Any = {**facts, "champion_version": 1, "scorecards": {**facts["scorecards"], "champion": scorecard(0.7, 4)}}
    publish.settle.fn(made, 1, again)
    assert store.models.get("tiny", 1)["description"] == card


def test_a_version_that_is_refused_becomes_challenger_and_carries_this_decision_alone(
    store: Store, parts: Path, made: Production
) -> None:
    store.register(parts, "k1")
    store.models.set_champion("tiny", 1, None)
    store.register(parts, "k2")
    store.models.tag("tiny", 2, {"promoted_by": "Ada", "promotion_reason": "then"})
    before = store.models.get("tiny", 1)
    assert publish.promote.fn(candidate(made, before), 2, Decision(False, "it falls")) == "candidate"
    challenger, champion = store.models.alias("tiny", "challenger"), store.models.alias("tiny", "champion")
    assert challenger
    assert champion
    assert (challenger["version"], champion["version"]) == (2, 1)
    wanted = {"champion_before": "1", "decision": "keep", "decision_reason": "it falls", "promoted_by": ""}
    assert wanted.items() <= challenger["tags"].items()


def test_a_candidate_that_was_compared_with_a_champion_of_before_is_overtaken_and_nothing_moves(
    store: Store, parts: Path, made: Production
) -> None:
    for number in (1, 2, 3):
        store.register(parts, f"k{number}")
    store.models.set_champion("tiny", 1, None)
    before = store.models.get("tiny", 1)
    store.models.set_champion("tiny", 2, 1)
    assert publish.promote.fn(candidate(made, before), 3, Decision(True, "it rises")) == "overtaken"
    assert store.models.get("tiny", "champion")["version"] == 2
    assert publish.promote.fn(candidate(made, store.models.get("tiny", 2)), 3, Decision(True, "it rises")) == "champion"
