"""Batcher: rows of all tasks and requests that wait, answered together."""

import logging
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from alter_core.inference.prediction import Prediction
from alter_core.inference.stream import Asked
from flows.serving.metrics import Metrics
from flows.serving.served import Served

log = logging.getLogger(__name__)
GATHER_SHARE = 0.1
SHARES = 4  # requests of many rows that a batch has room for, so that none holds up the others


class Full(Exception):
    """As many rows wait as may wait."""


class Turn:
    """Held while a model computes. Whoever asked first has it next, so that a load holds up no new version."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given = self._now = 0

    @property
    def is_asked_for(self) -> bool:
        """Whether somebody waits for it."""
        return self._given > self._now + 1

    def __enter__(self) -> None:
        with self._changed:
            own = self._given
            self._given += 1
            self._changed.wait_for(lambda: self._now == own)

    def __exit__(self, *_error: object) -> None:
        with self._changed:
            self._now += 1
            self._changed.notify_all()


@dataclass(eq=False)
class Waiting:
    """A request whose rows are not all answered. Its version is that of its arrival, whatever becomes champion."""

    served: Served
    tasks: Sequence[str]
    inputs: Sequence[str]
    since: float
    answer: "Future[list[Prediction]]" = field(default_factory=Future)
    done: dict[int, Prediction] = field(default_factory=dict)
    """By row."""
    taken: int = 0
    """Rows that are answered, or in a batch."""

    @property
    def left(self) -> int:
        return len(self.tasks) - self.taken


Key = tuple[Waiting, int]
"""A row of a request."""


@dataclass(frozen=True)
class Part:
    """Rows of a request that enter a batch."""

    of: Waiting
    rows: range


class Batcher:
    """Answers whatever waits, up to `batch_rows` at a time; a batch is of one version.

    A batch begins with what waits for its version, shared by all threads. Rows join it while it is computed, and leave
    it when they are answered, as long as those who wait longest ask for its version. Before a batch begins it waits a
    little, GATHER_SHARE of the last one's time and at most `gather_seconds`: callers who were just answered ask again.
    One thread leads, for all domains: a batch uses every core.
    """

    def __init__(self, metrics: Metrics, queue_rows: int, batch_rows: int, gather_seconds: float) -> None:
        self.turn = Turn()
        self.metrics = metrics
        self.batch_rows = batch_rows
        self.changed = threading.Condition()
        self._queue_rows, self._gather_seconds = queue_rows, gather_seconds
        self._waiting: list[Waiting] = []
        self._closing = False
        self._free = self._last = 0.0
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, served: Served, tasks: Sequence[str], inputs: Sequence[str]) -> "Future[list[Prediction]]":
        """Answers in the rows' order; cancel it, and rows that are in no batch yet are dropped. Raises Full."""
        request = Waiting(served, tasks, inputs, time.monotonic())
        with self.changed:
            self._drop_cancelled()
            if self._rows() + len(tasks) > self._queue_rows or self._closing:
                raise Full
            self._waiting.append(request)
            self.metrics.waiting.set(self._rows())
            self.changed.notify_all()
        return request.answer

    def close(self) -> None:
        """Answer what waits, and end."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._thread.join()

    def _rows(self) -> int:
        return sum(request.left for request in self._waiting)

    def _drop_cancelled(self) -> None:
        self._waiting = [request for request in self._waiting if not request.answer.cancelled()]

    def _run(self) -> None:
        while served := self._asked_for():
            stream = Arrivals(self, served)
            with self.turn:
                begin = time.monotonic()
                served.predictor.stream(stream)
                self._free = time.monotonic()
            self._last = self._free - begin
            for request in stream.apart:
                self._answer_alone(request)
            del served, stream  # else they hold a version in memory until the next one

    def _asked_for(self) -> Served | None:
        """The version that is longest asked for, once it is; None at the end."""
        with self.changed:
            while True:
                self.changed.wait_for(lambda: self._waiting or self._closing)
                if self._waiting:
                    gathers = min(self._gather_seconds, GATHER_SHARE * self._last)
                    until = max(self._waiting[0].since, self._free) + gathers
                    self.changed.wait_for(self._enough, timeout=max(0.0, until - time.monotonic()))
                self._drop_cancelled()
                if self._waiting:
                    return self._waiting[0].served
                if self._closing:
                    return None

    def _enough(self) -> bool:
        return self._rows() >= self.batch_rows or self._closing

    def next(self, served: Served, shares: int, writes: Sequence[int], begins: bool) -> list[Part]:
        """Rows for the first of `shares`, which write so many rows each: as many as bring all to the same number. None
        where another version is longest asked for, but for a share that begins: or it would have none of its batch
        where requests for two versions come in turn. For who holds `changed`.

        Of each request a share, then what there is room for. A request with rows left goes to the end.
        """
        self._drop_cancelled()
        if not self._waiting or not (begins or self._waiting[0].served is served):
            return []
        alike = [request for request in self._waiting if request.served is served]
        own, every = writes[0], sum(writes) + sum(request.left for request in alike)
        room = min(math.ceil(every / shares), math.ceil(self.batch_rows / shares)) - own
        now, counts = time.monotonic(), dict.fromkeys(alike, 0)
        for most in (max(1, self.batch_rows // SHARES), self.batch_rows):
            for request in alike:
                more = max(0, min(most, request.left - counts[request], room))
                counts[request] += more
                room -= more
        parts = []
        for request, count in counts.items():
            if count:
                parts.append(Part(request, range(request.taken, request.taken + count)))
                request.taken += count
                self.metrics.waited(served.domain, now - request.since, count)
        begun = dict.fromkeys(part.of for part in parts)
        self._waiting = [
            *(request for request in self._waiting if request not in begun),
            *(request for request in begun if request.left),
        ]
        if parts:
            self.metrics.batch_rows.observe(sum(len(part.rows) for part in parts))
            self.metrics.waiting.set(self._rows())
        return parts

    def put_aside(self, requests: Sequence[Waiting]) -> None:
        """Take no more rows of requests. For who holds `changed`."""
        self._waiting = [one for one in self._waiting if one not in requests]

    def fail(self, request: Waiting, error: Exception) -> None:
        """Nothing of a request is answered any more."""
        with self.changed:
            self.put_aside([request])
        log.error("%s could not answer", request.served.name, exc_info=error)
        if not request.answer.done() and request.answer.set_running_or_notify_cancel():
            request.answer.set_exception(error)

    def _answer_alone(self, request: Waiting) -> None:
        """A request whose rows were computed beside others, when something failed."""
        try:
            with self.turn:
                answers = request.served.predictor.predict(request.tasks, request.inputs)
        except Exception as error:
            self.fail(request, error)
            return
        if request.answer.set_running_or_notify_cancel():
            request.answer.set_result(answers)


class Arrivals:
    """What waits for one version, as `Predictor.stream` takes it."""

    def __init__(self, batcher: Batcher, served: Served) -> None:
        self._batcher, self._served = batcher, served
        self._writes: dict[int, int] = {}
        self._begun: set[int] = set()  # shares that have had rows
        self._over = False  # once a share has ended, or the others would go on without it
        self.apart: list[Waiting] = []
        """Requests of which rows were not answered, for they were computed beside others when something failed."""

    def take(self, share: int, shares: int, writes: int) -> list[Asked[Key]] | None:
        batcher = self._batcher
        with batcher.changed:
            self._writes[share] = writes
            while not (parts := self._next(share, shares)):
                if writes:
                    return []
                if not any(self._writes.values()):
                    self._over = True
                    batcher.changed.notify_all()  # the other shares, which wait for this one
                    return None
                batcher.changed.wait()
            self._begun.add(share)
            self._writes[share] = writes + sum(len(part.rows) for part in parts)
        return [row for part in parts for row in self._planned(part)]

    def _next(self, share: int, shares: int) -> list[Part]:
        if self._over or self.apart or self._batcher.turn.is_asked_for:
            return []
        others = [writes for other, writes in self._writes.items() if other != share]
        return self._batcher.next(self._served, shares, [self._writes[share], *others], share not in self._begun)

    def _planned(self, part: Part) -> list[Asked[Key]]:
        request, rows = part.of, part.rows
        try:
            own = slice(rows.start, rows.stop)
            plan = self._served.predictor.plan(request.tasks[own], request.inputs[own])
        except Exception as error:
            self._batcher.fail(request, error)
            return []
        return [Asked((request, row), plan, place) for place, row in enumerate(rows)]

    def give(self, key: Key, answer: Prediction) -> None:
        request, row = key
        with self._batcher.changed:
            request.done[row] = answer
            whole = len(request.done) == len(request.tasks) and request not in self.apart
        if whole and not request.answer.done() and request.answer.set_running_or_notify_cancel():
            request.answer.set_result([request.done[row] for row in range(len(request.tasks))])

    def fail(self, keys: Sequence[Key], error: Exception) -> None:
        requests = list(dict.fromkeys(request for request, _ in keys))
        if len(requests) == 1:
            self._batcher.fail(requests[0], error)
            return
        log.warning("%s: rows are asked again one request at a time: %s", self._served.name, error)
        with self._batcher.changed:
            self.apart += [request for request in requests if request not in self.apart]
            self._batcher.put_aside(requests)
