"""Rows that changed call for a run, and old champions are stale: real rows, a real store, a clock to move."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.errors import SpecError, WorkspaceError
from alter_core.spec import TriggerSpec
from flows.production import review, watch
from flows.production.plan import Plan
from flows.production.watch import STALE, Memory, Seen, Started, decide, remembered
from tests.flows.conftest import Read
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DATA = TriggerSpec()


def seen(digest: str, champion: str | None, changed: float | None, **more: Any) -> Seen:
    return Seen(digest, frozenset({champion} - {None}), champion, changed, **more)


@pytest.mark.parametrize(
    ("found", "start", "why"),
    [
        (seen("b", "a", 0.2), True, "20.0% of the rows changed, more than 10.0%"),
        (seen("b", "a", 0.05), False, "5.0% of the rows changed, no more than 10.0%"),
        (seen("b", "a", 0.05, drifted=("labels drifted",)), True, "labels drifted"),
        (seen("b", "a", None), True, "how many is not known"),
        (seen("a", None, None), True, "there is no champion yet"),
        (seen("a", "a", 0.0), False, "a version was made of just these rows"),
        (seen("b", "a", 0.2, busy=True), False, "and a run is on"),
    ],
)
def test_a_run_is_due_for_rows_that_differ_enough_from_the_champions(found: Seen, start: bool, why: str) -> None:
    verdict = decide(DATA, found, Started(), START)
    assert verdict.start == start
    assert why in verdict.why


def test_a_trigger_that_flaps_rests_longer_and_longer_and_a_daily_change_never_longer() -> None:
    def starts(every: timedelta, days: int) -> list[int]:
        """Hours of the starts where rows change for good at each `every`, looked at hourly."""
        started, made = Started(), "0"
        found = []
        for hour in range(24 * days):
            now = START + hour * HOUR
            rows = str((hour * HOUR) // every + 1)
            if decide(DATA, seen(rows, made, 0.5), started, now).start:
                started, made = started.then(now, rows, DATA), rows
                found.append(hour)
        return found

    gaps = [later - sooner for sooner, later in pairwise(starts(HOUR, 30))]
    assert gaps[:4] == [6, 12, 24, 48]
    assert max(gaps) <= 7 * 24 + 1
    assert starts(timedelta(days=1), 30) == [24 * day for day in range(30)]


def test_rows_of_which_a_run_led_to_no_version_are_tried_again_after_a_rest() -> None:
    started = Started().then(START, "b", DATA)
    verdict = decide(DATA, seen("b", "a", 0.5), started, START + HOUR)
    assert "it rests until 2026-01-01 06:00 UTC after the last start, which was for just these rows" in verdict.why
    assert decide(DATA, seen("b", "a", 0.5), started, START + 6 * HOUR).start


class Domains:
    """Domains of one workspace whose runs register at once, without training."""

    def __init__(self, store: Store, parts: Path) -> None:
        self.store, self.parts = store, parts

    def produce(self, plan: Plan) -> None:
        rows = ingest(plan.spec, plan.folder, plan.workspace)
        name, models = plan.spec.name, self.store.models
        tags = {"macro": 0.5, "data_digest": rows.digest, "decision": "promote", "decision_reason": "it rises"}
        version = self.store.register(self.parts, f"{name}-{rows.digest}", name, facts=card_facts(name), tags=tags)
        before = models.alias(name, "champion")
        models.set_champion(name, version, before["version"] if before else None)


def change(plan: Plan, rows: int, seed: int) -> None:
    """Give so many rows of `colour` another text."""
    file = plan.folder / "colour.jsonl"
    lines = file.read_text().splitlines()
    for place in random.Random(seed).sample(range(len(lines)), rows):
        lines[place] = lines[place].replace('"input": "', f'"input": "in {seed} {place} ')
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The one item is the time."""
    time = [START]
    monkeypatch.setattr(review, "now", lambda: time[0])
    return time


def test_a_look_compares_real_rows_starts_once_and_remembers_it(
    read: Read, store: Store, parts: Path, clock: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    plan, told = read(trigger="data", freshness="14d"), []
    domains = Domains(store, parts)
    assert watch.watch(plan, False, told.append).why == "there is no champion yet"
    domains.produce(plan)
    assert watch.watch(plan, False, told.append).why == "a version was made of just these rows"
    change(plan, 1, 1)
    assert "no more than 10.0%" in watch.watch(plan, False, told.append).why
    change(plan, 40, 2)
    clock[0] += 5 * HOUR
    resting = watch.watch(plan, False, told.append)
    assert "it rests until 2026-01-01 06:00" in resting.why
    assert resting.stale.startswith("its rows have changed (")
    assert store.models.get("tiny", 1)["tags"][STALE].startswith("since 2026-01-01: its rows have changed")
    assert "**Stale** since 2026-01-01: its rows" in store.models.get("tiny", 1)["description"]
    clock[0] += HOUR
    again = watch.watch(plan, False, told.append)
    assert (again.start, again.stale) == (True, "")  # told once
    assert [text.split(" of the")[0] for text in told[1:]] == [again.why.split(" of the")[0]]
    with remembered(plan), pytest.raises(WorkspaceError, match="looked at by another process"):
        watch.watch(plan, False, told.append)


def test_a_start_that_fails_is_not_remembered(
    read: Read, store: Store, clock: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise ConnectionError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    plan = read(trigger={"every": "1d"})
    with pytest.raises(ConnectionError):
        watch.watch(plan, False, away)
    assert watch.watch(plan, False, lambda _: None).start


def test_a_champion_is_stale_by_its_age_alone(read: Read, store: Store, parts: Path) -> None:
    plan = read(freshness="14d")
    store.register(parts, "key")
    version = store.models.get("tiny", 1)
    made = datetime.fromtimestamp(version["created"] / 1000, UTC)
    assert watch.stale(version, plan.spec, None, made + timedelta(days=13)) == ""
    assert watch.stale(version, plan.spec, None, made + timedelta(days=15)) == "it is 15 days old, and freshness is 14d"


@pytest.mark.parametrize(
    "wrong",
    [{"freshness": "fortnight"}, {"trigger": "rows"}, {"trigger": {"every": "2h"}}, {"trigger": {"rest": "0h"}}],
)
def test_a_wrong_trigger_is_told_with_what_is_right(wrong: dict[str, Any], read: Read) -> None:
    with pytest.raises(SpecError):
        read(**wrong)


def test_eight_domains_on_a_trigger_for_a_month_run_for_each_change_that_counts_once_and_miss_none(
    tmp_path: Path,
) -> None:
    """Looked at hourly. A run takes 3 hours, in which the domain is busy; every fifth leads to nothing."""
    dice = random.Random(0)
    why: dict[int, list[str]] = {}
    for number in range(8):
        memory = Memory(tmp_path / f"{number}.json")
        rows, champion, made = 0, None, set[int]()  # rows as an edit's number; how far two of them are apart is below
        weight = {0: 0.0}
        ends, starts, waited = None, [], 0
        why[number] = []
        for hour in range(24 * 30):
            now = START + hour * HOUR
            if ends and ends <= now:
                ends = None
                if len(starts) % 5:
                    champion = starts[-1]
                    made.add(champion)
            if hour < 24 * 20 and dice.random() < number / 50:  # domain 0 never changes; all are quiet in the end
                rows += 1
                weight[rows] = weight[rows - 1] + dice.choice([0.02, 0.3])
            changed = None if champion is None else weight[rows] - weight[champion]
            names = frozenset(map(str, made))
            found = Seen(str(rows), names, None if champion is None else str(champion), changed, busy=ends is not None)
            verdict = decide(DATA, found, memory.read(), now)
            due = champion is None or (rows not in made and weight[rows] - weight[champion] > 0.1)
            waited = waited + 1 if due and ends is None else 0
            assert waited <= 7 * 24 + 1  # nothing that is due is missed
            if verdict.start:
                assert due
                assert ends is None
                assert rows not in made  # nothing runs twice
                assert starts.count(rows) <= 1 or len(starts) % 5 == 0
                memory.write(memory.read().then(now, str(rows), DATA))
                starts.append(rows)
                why[number].append(verdict.why)
                ends, waited = now + 3 * HOUR, 0
        assert champion is not None
        assert weight[rows] - weight[champion] <= 0.1
    assert why[0] == ["there is no champion yet"]
    assert min(len(why[number]) for number in range(1, 8)) > 3
    assert all("of the rows changed, more than 10.0%" in text for each in why.values() for text in each[1:])
