"""What a person decides of registered versions: flows/production/decisions.py on a real store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alter_core.errors import AlterError
from flows.production import decisions
from flows.production.earlier import stands
from registry.comparison import compare as compare_cards
from registry.errors import AliasConflict, RegistryError, RegistryInputError, StoreUnavailable
from registry.models import ModelStore
from tests.conftest import tiny_spec, write_domain
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

Made = Callable[..., int]


@pytest.fixture
def made(store: Store, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A function that registers a version of `level`, as a production does that ended with `decision`, or did not end.

    Its champion before is the one of the moment.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)

    def register(level: float, decision: str = "", seed: int = 0) -> int:
        (parts / "bundle.json").write_text(json.dumps({"level": level, "metadata": {"spec": {"seed": seed}}}))
        version = store.register(parts, f"k{level}", facts=card_facts("tiny", level), tags={"macro": level})
        before = champion(store)
        if decision:
            tags = {"decision": decision, "decision_reason": "as the rule said", "champion_before": before or "none"}
            store.models.tag("tiny", version, tags)
        if decision == "promote":
            store.models.set_champion("tiny", version, before)
        elif decision == "keep":
            store.models.set_challenger("tiny", version)
        return version

    return register


def champion(store: Store) -> int | None:
    found = store.models.alias("tiny", "champion")
    return found and found["version"]


def verdict(store: Store, version: int) -> str:
    """The line of a version's card that tells what was decided."""
    lines = store.models.get("tiny", version)["description"].splitlines()
    return next((line for line in lines if line.startswith(("**Promoted", "**Stays", "**Rolled"))), "")


@pytest.mark.parametrize(
    "decide",
    [
        lambda _: decisions.promote("untold", None, None),
        lambda _: decisions.promote("untold", "1", "it looks well"),
        lambda _: decisions.reject("untold", None, "it looks bad"),
        lambda _: decisions.rollback("untold"),
        lambda _: decisions.report("untold", "champion"),
        lambda folder: decisions.export("untold", "champion", folder / "out", "merged", None, False, False),
    ],
    ids=["promote what waits", "promote a version", "reject", "rollback", "report", "export"],
)
def test_a_domain_that_has_no_version_says_so(made: Made, tmp_path: Path, decide: Callable[[Path], object]) -> None:
    with pytest.raises(RegistryInputError, match="no version of 'untold' is registered"):
        decide(tmp_path)


def test_a_version_whose_production_did_not_end_is_not_promoted_whatever_the_reason(store: Store, made: Made) -> None:
    made(0.6)
    for reason in (None, "it looks well"):
        with pytest.raises(AlterError, match="its production did not end, so that it was never verified; run the"):
            decisions.promote("tiny", "1", reason)
    assert champion(store) is None


def test_a_version_whose_bundle_is_gone_does_not_become_champion(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.5, "keep")
    shutil.rmtree(store.models.bundle_path("tiny", 2))
    with pytest.raises(RegistryError, match="tiny version 2 is registered, but its bundle is not at"):
        decisions.promote("tiny", "challenger", "it looks well")
    assert champion(store) == 1


def test_there_is_no_rollback_to_a_version_that_was_deleted_in_mlflow(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.7, "promote")
    store.models.client.delete_logged_model(store.models.get("tiny", 1)["model_id"])
    with pytest.raises(
        RegistryError, match=r"tiny is not rolled back.*version 1 is registered, but its model .* was deleted in MLflow"
    ):
        decisions.rollback("tiny")
    assert champion(store) == 2
    assert "rolled_back" not in store.models.get("tiny", 2)["tags"]


def test_with_a_reason_a_champion_that_cannot_be_compared_any_more_is_replaced(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.5, "keep")
    store.models.client.delete_logged_model(store.models.get("tiny", 1)["model_id"])
    store.models.client.delete_run(store.models.get("tiny", 2)["run_id"])
    with pytest.raises(AlterError, match=r"cannot compare them: tiny version 1 .* was deleted in MLflow.*--reason"):
        decisions.promote("tiny", "2", None)
    assert champion(store) == 1
    assert decisions.promote("tiny", "2", "files are gone").text == "tiny version 2 is champion now: files are gone"
    assert champion(store) == 2
    assert "it cannot compare them" in verdict(store, 2)  # though the run that made it was deleted


def test_where_the_card_of_a_version_cannot_be_written_anew_the_decision_stands_and_it_is_told(
    store: Store, made: Made
) -> None:
    made(0.6, "promote")
    made(0.7, "promote")
    store.models.client.delete_logged_model(store.models.get("tiny", 2)["model_id"])
    told = decisions.rollback("tiny")
    assert told.text.startswith(
        "tiny version 1 is champion again; version 2 stays registered (the card of version 2 stays"
    )
    assert champion(store) == 1


def test_a_card_tells_of_the_champion_that_a_person_replaced_and_of_the_rollback(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.5, "keep")
    made(0.7, "promote")
    decisions.promote("tiny", "2", "the support team prefers it")
    text = verdict(store, 2)
    assert text.startswith("**Promoted to champion** against champion version 3: ")
    assert "as the rule said" not in text  # of then, against version 1
    assert text.endswith(": the support team prefers it")
    tags = store.models.get("tiny", 2)["tags"]
    assert (tags["champion_before"], tags["decision"]) == ("3", "keep")
    assert decisions.rollback("tiny").text == "tiny version 3 is champion again; version 2 stays registered"
    assert verdict(store, 2).startswith("**Rolled back on 20")
    assert "it had been promoted to champion** against champion version 3: " in verdict(store, 2)
    decisions.promote("tiny", "2", "after all")
    assert verdict(store, 2).startswith("**Promoted to champion** against champion version 3: ")


def test_the_rule_is_asked_with_the_seed_of_the_version_as_its_production_asked_it(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.62, "keep", seed=5)
    cards = [card_facts("tiny", level)["scorecards"]["stage_two"] for level in (0.6, 0.62)]
    said = {seed: compare_cards(*cards, max_task_drop=0.02, seed=seed)["decision"]["numbers"] for seed in (0, 5)}
    assert said[0] != said[5]
    assert decisions.compare("tiny", "1", "2")["decision"]["numbers"] == said[5]


def test_without_a_reason_nothing_is_promoted_against_the_rule(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.5, "keep")
    with pytest.raises(AlterError, match="the promotion rule says no to tiny version 2 against version 1"):
        decisions.promote("tiny", "2", None)
    assert champion(store) == 1


def test_a_champion_that_was_made_meanwhile_is_not_overwritten(
    store: Store, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(0.6, "promote")
    made(0.7, "keep")
    made(0.8, "keep")
    asked = decisions._asked

    def meanwhile(*given: Any) -> Any:
        store.models.set_champion("tiny", 3, 1)  # a production ends
        return asked(*given)

    monkeypatch.setattr(decisions, "_asked", meanwhile)
    with pytest.raises(AliasConflict):
        decisions.promote("tiny", "2", "a reason")
    assert champion(store) == 3


def test_the_rule_is_that_of_the_domains_spec(made: Made, tiny_backbone: Path, tmp_path: Path) -> None:
    made(0.6, "promote")
    made(0.7, "keep")
    rule = {"max_task_drop": 0.5, "confidence": 0.6}
    write_domain(tmp_path / "domains" / "tiny", {**tiny_spec(tiny_backbone), "promotion": rule})
    numbers = decisions.compare("tiny", "1", "2")["decision"]["numbers"]
    assert (numbers["max_task_drop"], numbers["macro"]["confidence"]) == (0.5, 0.6)


def test_a_store_that_is_away_for_a_moment_is_no_ground_to_promote_unasked(
    store: Store, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("busy")

    made(0.6, "promote")
    made(0.5, "keep")
    monkeypatch.setattr(ModelStore, "facts", away)
    with pytest.raises(StoreUnavailable):
        decisions.promote("tiny", "2", "a reason")
    assert champion(store) == 1


def test_what_a_person_rolled_back_stands_and_is_not_made_again(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.7, "promote")
    decisions.rollback("tiny")
    assert champion(store) == 1
    assert stands(store.models.get("tiny", 2), store.models.champion("tiny"))


def test_what_a_person_decided_stands_in_the_report(store: Store, made: Made) -> None:
    made(0.6, "promote")
    made(0.5, "keep")
    assert "Not promoted:" in decisions.report("tiny", "2")
    decisions.promote("tiny", "2", "the support team prefers it")
    page = decisions.report("tiny", "champion")
    assert "the support team prefers it" in page
    assert "Not promoted" not in page
    decisions.rollback("tiny")
    assert "Rolled back:" in decisions.report("tiny", "2")
