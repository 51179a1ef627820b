"""A team whose candidates wait for a person's word, on a real store, with a clock that the tests move."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import publish
from flows.production import review
from flows.production.plan import Plan
from flows.production.production import Production
from registry.promotion import Decision
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

RISES = Decision(True, "macro score +0.010")


class Clock:
    """What `review.now` gives."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


class Team:
    """A domain whose candidates wait for Ada or Bob, and its productions."""

    def __init__(self, store: Store, parts: Path, made: Production, clock: Clock) -> None:
        self.store, self.parts, self.made, self.clock = store, parts, made, clock

    def candidate(self, level: float, decision: Decision = RISES) -> str:
        """A production that ends with this decision; what became of its version."""
        (self.parts / "bundle.json").write_text(f'{{"level": {level}}}')
        facts = card_facts("tiny", level)
        number = self.store.register(self.parts, f"k{level}", facts=facts)
        publish.put_aside(self.made.plan, self.made.stores)
        made: Any = SimpleNamespace(production=self.made, champion=self.store.models.champion("tiny"))
        verdict = publish.promote.fn(made, number, decision)
        publish.settle.fn(self.made, number, facts)
        return verdict

    def card(self, version: int) -> str:
        """The line of a version's card that tells what was decided."""
        return next(
            line for line in self.store.models.get("tiny", version)["description"].splitlines() if line[:2] == "**"
        )

    def waiting(self) -> int | None:
        found = self.store.models.alias("tiny", "review")
        return found and found["version"]

    def champion(self) -> int | None:
        found = self.store.models.alias("tiny", "champion")
        return found and found["version"]


@pytest.fixture
def team(
    store: Store,
    parts: Path,
    read: Callable[..., Plan],
    production: Callable[..., Production],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Team]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr(publish, "create_markdown_artifact", lambda *_, **__: None)
    clock = Clock()
    monkeypatch.setattr(review, "now", clock)
    plan = read(promotion={"mode": "review", "reviewers": ["ada", "bob"]})
    with disable_run_logger():
        yield Team(store, parts, production(plan), clock)
