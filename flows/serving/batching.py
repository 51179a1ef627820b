"""Batcher: rows of all tasks and requests that wait, answered together by one thread."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from alter_core.inference.predict import Prediction
from flows.serving.metrics import Metrics
from flows.serving.served import Served

log = logging.getLogger(__name__)
GATHER_SHARE = 0.1
SHARES = 4  # requests of many rows that a batch has room for, so that none holds up the others


class Full(Exception):
    """As many rows wait as may wait."""


@dataclass(eq=False)
class Waiting:
    """A request whose rows are not all answered. Its version is that of its arrival, whatever becomes champion."""

    served: Served
    tasks: Sequence[str]
    inputs: Sequence[str]
    since: float
    answer: "Future[list[Prediction]]" = field(default_factory=Future)
    done: list[Prediction] = field(default_factory=list)
    taken: int = 0
    """Rows that are answered, or in a batch."""

    @property
    def left(self) -> int:
        return len(self.tasks) - self.taken


@dataclass(frozen=True)
class _Part:
    """Rows of a request that are in a batch."""

    of: Waiting
    tasks: Sequence[str]
    inputs: Sequence[str]


class Batcher:
    """Answers whatever waits, `batch_rows` at a time; a batch is of one version.

    While a batch is computed, the next one gathers, so that load makes batches large by itself. Before it starts, it
    waits a little, GATHER_SHARE of the last one's time and at most `gather_seconds`: callers who were just answered ask
    again, and would otherwise make a batch of their own, in turn with those who waited. One thread computes, for all
    domains: a call uses every core.
    """

    def __init__(self, metrics: Metrics, queue_rows: int, batch_rows: int, gather_seconds: float) -> None:
        self.turn = threading.Lock()
        """Held while a model computes."""
        self._metrics = metrics
        self._queue_rows, self._batch_rows, self._gather_seconds = queue_rows, batch_rows, gather_seconds
        self._waiting: list[Waiting] = []
        self._changed = threading.Condition()
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
        with self._changed:
            self._drop_cancelled()
            if self._rows() + len(tasks) > self._queue_rows or self._closing:
                raise Full
            self._waiting.append(request)
            self._metrics.waiting.set(self._rows())
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Answer what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _rows(self) -> int:
        return sum(request.left for request in self._waiting)

    def _drop_cancelled(self) -> None:
        self._waiting = [request for request in self._waiting if not request.answer.cancelled()]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._waiting:
                    gathers = min(self._gather_seconds, GATHER_SHARE * self._last)
                    until = max(self._waiting[0].since, self._free) + gathers
                    self._changed.wait_for(self._enough, timeout=max(0.0, until - time.monotonic()))
                self._drop_cancelled()
                batch = self._next() if self._waiting else []
                self._metrics.waiting.set(self._rows())
                if not self._waiting and not batch and self._closing:
                    return
            if batch:
                self._metrics.batch_rows.observe(sum(len(part.tasks) for part in batch))
                begin = time.monotonic()
                self._answer(batch)
                self._free = time.monotonic()
                self._last = self._free - begin
                batch.clear()  # else it holds its version in memory until the next one

    def _enough(self) -> bool:
        return self._rows() >= self._batch_rows or self._closing

    def _next(self) -> list[_Part]:
        """The next batch: of the version that is longest asked for, a share of each request, then what there is room
        for. A request with rows left goes to the end."""
        now, room = time.monotonic(), self._batch_rows
        alike = [request for request in self._waiting if request.served is self._waiting[0].served]
        counts = dict.fromkeys(alike, 0)
        for most in (max(1, self._batch_rows // SHARES), self._batch_rows):
            for request in alike:
                more = min(most, request.left - counts[request], room)
                counts[request] += more
                room -= more
        parts = []
        for request, count in counts.items():
            if not count:
                continue
            begin, end = request.taken, request.taken + count
            parts.append(_Part(request, request.tasks[begin:end], request.inputs[begin:end]))
            request.taken = end
            self._metrics.waited(request.served.domain, now - request.since, count)
        begun = dict.fromkeys(part.of for part in parts)
        self._waiting = [
            *(request for request in self._waiting if request not in begun),
            *(request for request in begun if request.left),
        ]
        return parts

    def _answer(self, batch: Sequence[_Part]) -> None:
        tasks = [task for part in batch for task in part.tasks]
        inputs = [text for part in batch for text in part.inputs]
        try:
            with self.turn:
                answers = batch[0].of.served.predictor.predict(tasks, inputs)
        except Exception as error:
            if len(batch) > 1:  # one request's rows must not fail those of others
                for part in batch:
                    self._answer([part])
                return
            log.exception("%s could not answer", batch[0].of.served.name)
            self._fail(batch[0].of, error)
            return
        begin = 0
        for part in batch:
            request = part.of
            request.done += answers[begin : begin + len(part.tasks)]
            begin += len(part.tasks)
            if len(request.done) == len(request.tasks) and request.answer.set_running_or_notify_cancel():
                request.answer.set_result(request.done)

    def _fail(self, request: Waiting, error: Exception) -> None:
        with self._changed:
            self._waiting = [one for one in self._waiting if one is not request]
        if request.answer.set_running_or_notify_cancel():
            request.answer.set_exception(error)
