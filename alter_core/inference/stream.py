"""Rows that are answered as they come: those that come join those that are being written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from alter_core.inference.batches import Batches
from alter_core.inference.decoding import Answer, Decoder, Request, Writing
from alter_core.inference.plan import Plan
from alter_core.inference.prediction import Prediction
from alter_core.memory import release_free_memory

JOIN_STEPS = 16
"""Tokens that rows write before others may join them where fewer than half have left since the last time: each row that
joins has the others wait while its prompt is read."""
MOST_HELD_UP = 3
"""How often a row waits so for others at most: the longest answers are not to wait for all that come meanwhile."""

Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Asked(Generic[Key]):
    """A row of a stream."""

    key: Key
    """What its caller knows it by."""
    plan: Plan
    row: int
    """Of the plan."""

    @property
    def request(self) -> Request:
        """As the model is asked it."""
        return self.plan.requests[self.row]


class Stream(Protocol[Key]):
    """Rows that come and go while others are answered. Called by several threads at once."""

    def take(self, share: int, shares: int, writes: int) -> Sequence[Asked[Key]] | None:
        """Rows to answer next. share: of so many `shares` of this process's threads, which writes so many rows already;
        where that is none, this may wait, and None ends the share.
        """
        ...

    def give(self, key: Key, answer: Prediction) -> None:
        """A row is answered."""
        ...

    def fail(self, keys: Sequence[Key], error: Exception) -> None:
        """Rows that were computed together are not answered."""
        ...


def answer_stream(
    rows: Stream[Key],
    decoder: Decoder,
    batches: Batches,
    share: int,
    shares: int,
    predicted: Callable[[Plan, int, Answer], Prediction],
) -> None:
    """Answer rows until there are no more, each as soon as it is done. share: of so many `shares`, each a thread with a
    decoder of its own. predicted: what a row of a plan is told for an answer.
    """
    writing: Writing[Asked[Key]] = decoder.begin()
    waiting: list[Asked[Key]] = []
    joined = steps = 0  # rows that wrote after the last join, and tokens since
    while True:
        is_due = len(writing) <= max(1, joined // 2) or steps >= JOIN_STEPS
        has_room = writing.may_join and is_due and writing.held_up < MOST_HELD_UP
        if not waiting and (not len(writing) or has_room):
            taken = rows.take(share, shares, len(writing))
            if taken is None:
                return
            waiting += taken
        joins: list[Asked[Key]] = []
        if waiting and (not len(writing) or writing.may_join):
            count = batches.fitting([row.request for row in waiting], [row.request for row in writing.keys], shares)
            joins, waiting[:count] = sorted(waiting[:count], key=lambda row: batches.likeness(row.request)), []
        if joins:
            steps, joined = 0, len(writing) + len(joins)
        try:
            ended = writing.join([(row, row.request) for row in joins]) if joins else []
            if len(writing):
                ended += writing.step()
        except Exception as error:
            rows.fail([row.key for row in dict.fromkeys([*joins, *writing.keys])], error)
            writing = decoder.begin()
            continue
        steps += 1
        for row, answer in ended:
            rows.give(row.key, predicted(row.plan, row.row, answer))
        release_free_memory()
