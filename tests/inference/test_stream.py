"""Rows that join those that are being written get the answers that they get alone."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from alter_core.inference.decoding import Decoder
from alter_core.inference.predict import Predictor
from alter_core.inference.prediction import Prediction
from alter_core.inference.stream import MOST_HELD_UP, Asked
from alter_core.spec import DomainSpec
from tests.inference.conftest import Subject

Rows = tuple[list[str], list[str]]


class Arrivals:
    """Rows that come in groups, one at each look of a share that has none left or writes some."""

    def __init__(self, predictor: Predictor, rows: Rows, groups: Sequence[Sequence[int]]) -> None:
        plan = predictor.plan(*rows)
        self.groups = [[Asked(row, plan, row) for row in group] for group in groups]
        self.given: dict[int, Prediction] = {}
        self.failed: list[int] = []
        self.wrote: list[int] = []
        self._lock = threading.Lock()

    def take(self, _share: int, _shares: int, writes: int) -> list[Asked[int]] | None:
        with self._lock:
            self.wrote.append(writes)
            if self.groups:
                return self.groups.pop(0)
            return [] if writes else None

    def give(self, key: int, answer: Prediction) -> None:
        assert key not in self.given
        self.given[key] = answer

    def fail(self, keys: Sequence[int], _error: Exception) -> None:
        self.failed += keys


@pytest.fixture
def predictor(subject: Subject, spec: DomainSpec) -> Predictor:
    model, tokenizer, mta = subject
    return Predictor(model, tokenizer, spec, mta)


def groups_of(count: int, seed: int) -> list[list[int]]:
    """All rows, each once, in groups of no size to many."""
    draw, rows = random.Random(seed), list(range(count))
    draw.shuffle(rows)
    found = []
    while rows:
        size = draw.choice([0, 1, 1, 2, 5, 9])
        found.append(rows[:size])
        del rows[:size]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_join_are_answered_as_in_one_batch(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None], count: int, seed: int
) -> None:
    threads(count)
    wanted = predictor.predict(*mixed_rows)
    arrivals = Arrivals(predictor, mixed_rows, groups_of(len(mixed_rows[0]), seed))
    predictor.stream(arrivals)
    found = [arrivals.given[row] for row in range(len(wanted))]
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [one.score for one in found] == pytest.approx([one.score for one in wanted], rel=1e-4)
    joined = any(arrivals.wrote[:-1])
    assert joined or predictor.model.config.is_encoder_decoder, "no row met others that were being written"


@pytest.mark.parametrize("tokens_per_batch", [1, 200])
def test_no_more_rows_are_written_together_than_there_is_memory_for(
    subject: Subject, spec: DomainSpec, mixed_rows: Rows, tokens_per_batch: int, threads: Callable[[int], None]
) -> None:
    threads(1)
    model, tokenizer, mta = subject
    small = Predictor(model, tokenizer, spec, mta, tokens_per_batch=tokens_per_batch)
    arrivals = Arrivals(small, mixed_rows, [range(len(mixed_rows[0]))])
    small.stream(arrivals)
    wanted = small.predict(*mixed_rows)
    assert [arrivals.given[row].text for row in range(len(wanted))] == [one.text for one in wanted]
    longest = min(len(one.prompt) for one in small.plan(*mixed_rows).requests)
    assert max(arrivals.wrote) <= max(1, tokens_per_batch // longest)


def test_a_label_does_not_wait_for_longer_answers_that_began_before(
    predictor: Predictor, threads: Callable[[int], None]
) -> None:
    if predictor.model.config.is_encoder_decoder:
        pytest.skip("no rows join where an encoder reads them")
    threads(1)
    rows = ["title", "topic"], ["my card has not come yet", "my card"]
    arrivals = Arrivals(predictor, rows, [[0], [1]])
    predictor.stream(arrivals)
    assert list(arrivals.given) == [1, 0]


def test_a_long_answer_waits_no_more_than_a_few_times_for_those_that_come_later(
    predictor: Predictor, threads: Callable[[int], None]
) -> None:
    threads(1)
    rows = ["title", *["topic"] * 12], ["my card has not come yet", *[f"my card {number}" for number in range(12)]]
    arrivals = Arrivals(predictor, rows, [[row] for row in range(13)])
    predictor.stream(arrivals)
    assert len(arrivals.given) == 13
    assert list(arrivals.given).index(0) <= MOST_HELD_UP


def test_what_fails_takes_those_with_it_that_were_computed_together_and_no_others(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(1)
    real = Decoder.reading

    def reading(decoder: Decoder, asked: Any, trunk: Any) -> Any:
        if len(asked) == 3:
            raise RuntimeError("out of memory")
        return real(decoder, asked, trunk)

    count = len(mixed_rows[0])
    arrivals = Arrivals(predictor, mixed_rows, [[0, 1], [2, 3, 4], range(5, count)])
    monkeypatch.setattr(Decoder, "reading", reading)
    predictor.stream(arrivals)
    assert {2, 3, 4} <= set(arrivals.failed) <= {0, 1, 2, 3, 4}
    assert sorted({*arrivals.given, *arrivals.failed}) == list(range(count))
    assert not set(arrivals.given) & set(arrivals.failed)
