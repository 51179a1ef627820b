"""Answers by several threads are those of one, whatever is asked, and follow the weights."""

import threading
from collections.abc import Callable

import pytest
import torch

from alter_core.inference.predict import Predictor
from alter_core.inference.prediction import Prediction
from alter_core.inference.together import Together
from alter_core.mta.layer import MTALayer
from alter_core.mta.replicas import Threads
from alter_core.spec import DomainSpec
from tests.inference.conftest import Subject

Rows = tuple[list[str], list[str]]


def alike(one: list[Prediction], other: list[Prediction]) -> bool:
    return [p.text for p in one] == [p.text for p in other] and [p.score for p in one] == pytest.approx(
        [p.score for p in other], rel=1e-3
    )


@pytest.fixture
def predictor(subject: Subject, spec: DomainSpec) -> Predictor:
    model, tokenizer, mta = subject
    return Predictor(model, tokenizer, spec, mta)


def test_what_torch_counts_while_others_are_divided_changes_no_cut(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None]
) -> None:
    """A thread that first computes then has one share for good, and cut its rows otherwise, which bf16 rounds."""
    threads(2)
    plan = predictor.plan(*mixed_rows)
    expected, found = predictor.batches(plan), []

    def first() -> None:
        torch.ones(1).sum()
        found.append((torch.get_num_threads(), predictor.batches(plan)))

    with Threads(2).divided():
        thread = threading.Thread(target=first)
        thread.start()
        thread.join()
    assert found == [(1, expected)]


def test_nothing_computed_outlives_its_answers(
    predictor: Predictor, mixed_rows: Rows, tensors_left: Callable[[Callable[[], object]], int]
) -> None:
    predictor.predict(*mixed_rows)  # some things are kept on purpose
    assert tensors_left(lambda: predictor.predict(*mixed_rows)) == 0


def test_several_threads_answer_as_one(predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None]) -> None:
    threads(1)
    expected = predictor.predict(*mixed_rows)
    assert len(predictor.batches(predictor.plan(*mixed_rows))) == 1
    threads(3)
    batches = predictor.batches(predictor.plan(*mixed_rows))
    assert len(batches) == 3
    assert sorted(row for rows in batches for row in rows) == list(range(len(expected)))
    told: list[int] = []
    assert alike(predictor.predict(*mixed_rows, lambda done, _total: told.append(done)), expected)
    assert told[-1] == len(expected)
    assert told == sorted(told)
    assert torch.get_num_threads() == 3
    tasks, inputs = mixed_rows
    assert alike(predictor.predict(tasks[:1], inputs[:1]), expected[:1])
    assert predictor.predict([], []) == []


def test_models_that_share_a_trunk_answer_by_several_threads_as_alone(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None]
) -> None:
    threads(2)
    expected = predictor.predict(*mixed_rows)
    counted: list[int] = []
    found = Together([predictor, predictor]).predict([predictor, predictor], *mixed_rows, counted.append)
    assert all(alike(own, expected) for own in found)
    assert sum(counted) == 2 * len(expected)


def test_replicas_follow_weights_that_change(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None]
) -> None:
    threads(2)
    before = predictor.predict(*mixed_rows)
    layers = [module for module in predictor.model.modules() if isinstance(module, MTALayer)]
    changed = layers[0].parameters() if layers else predictor.model.parameters()
    with torch.no_grad():
        for parameter in changed:
            parameter.add_(0.3 * torch.randn_like(parameter))
    after = predictor.predict(*mixed_rows)
    assert not alike(after, before)
    threads(1)
    assert alike(predictor.predict(*mixed_rows), after)


def test_replicas_hold_no_weights_of_their_own(
    predictor: Predictor, mixed_rows: Rows, threads: Callable[[int], None]
) -> None:
    threads(2)
    predictor.predict(*mixed_rows)
    one, two = (list(decoder.model.parameters()) for decoder in predictor._decoders)
    assert all(a is b for a, b in zip(one, two, strict=True))
    formed = [
        [module._memo for module in decoder.model.modules() if isinstance(module, MTALayer)]
        for decoder in predictor._decoders
    ]
    assert all(a is b for a, b in zip(*formed, strict=True))
