"""What a production registers and decides of its version, on a real store, and what it says when MLflow is away."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from flows import publish
from flows.production.candidate import Candidate
from flows.production.production import Production, Quality
from flows.publish import Run, ended
from registry.errors import StoreUnavailable
from registry.models import STARTED_FROM
from registry.promotion import Decision
from tests.conftest import tiny_spec
from tests.flows.conftest import Produce, Read, trained
from tests.registry.conftest import Store
from tests.registry.facts import card_facts, scorecard


def away(*_: Any) -> None:
    raise StoreUnavailable("the store does not answer")


def test_a_store_that_is_away_does_not_hide_why_a_run_ended() -> None:
    run: Any = SimpleNamespace(id="1", tracker=SimpleNamespace(end_run=away))
    with pytest.raises(MemoryError, match="ran out"), ended(run):
        raise MemoryError("ran out")
    with pytest.raises(StoreUnavailable), ended(run):
        pass


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "FINISHED")]
)
def test_a_run_in_mlflow_ends_as_its_production_did(error: BaseException | None, status: str) -> None:
    told: list[str] = []
    run: Any = SimpleNamespace(id="1", tracker=SimpleNamespace(end_run=lambda _id, status: told.append(status)))
    with suppress(MemoryError, KeyboardInterrupt), ended(run):
        if error:
            raise error
    assert told == [status]


def test_a_candidate_is_registered_with_what_it_was_made_of(
    store: Store, production: Produce, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    tasks = [
        {**task, "abstain_below": 0.6} if task["name"] == "colour" else task for task in tiny_spec(tmp_path)["tasks"]
    ]
    made = production(read(tasks=tasks))
    stages = {"stage_two": trained(tmp_path / "stage")}
    tracker = made.stores.tracker
    run = Run(tracker.start_run("run", {}, {}), tracker)
    card = scorecard(0.7, 4)
    quality = Quality(tmp_path, "ok", (), {}, {})
    candidate = Candidate(made, quality, stages, 7, run.id, scorecards={"stage_two": card})
    number = publish.register.fn(candidate, run)
    tags = store.models.get("tiny", number)["tags"]
    assert tags[STARTED_FROM] == "7"  # for gc, which keeps it
    assert (tags["run_key"], tags["data_digest"]) == (made.run_key, "d")
    logged = store.models.client.get_run(run.id).data.metrics
    assert logged["macro"] == pytest.approx(card["macro"]["value"])
    assert logged["validation_macro.before"] == 0.5
    assert logged["test.intent.calibration_error"] == 0.022
    table = json.loads(Path(store.models.client.download_artifacts(run.id, "doubtful/intent.json")).read_text())
    assert table["columns"] == ["place", "input", "label", "likely", "probability"]
    assert len(table["data"]) == 12
    assert made.facts_of(number)["gates"] == stages["stage_two"].result.gates
    told = json.loads((made.bundle_of(number) / "bundle.json").read_text())["metadata"]
    assert told == {"key": "k", TEMPERATURES: {"intent": 1.5}, ABSTAIN_BELOW: {"colour": 0.6}}
    stage = stages["stage_two"].folder
    assert json.loads((stage / "bundle" / "bundle.json").read_text())["metadata"] == {"key": "k"}
    assert not list(stage.glob("registered-*"))


@pytest.fixture
def made(store: Store, production: Produce, outside_a_flow: None, monkeypatch: pytest.MonkeyPatch) -> Production:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return production()


def candidate(made: Production, champion: Any) -> Any:
    return SimpleNamespace(production=made, champion=champion)


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
