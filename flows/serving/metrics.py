"""What Prometheus reads of the endpoint."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from alter_core.inference.prediction import Prediction
from flows.serving.served import Served

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FREE = ""  # label of answers in free text, which have no end


class Metrics:
    """Counters of one endpoint, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here: Any = {"registry": self.registry, "namespace": "alter"}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **here)
        self.request_seconds = Histogram(
            "request_seconds", "From a request's head to its answer.", ["path"], buckets=SECONDS, **here
        )
        self.answers = Counter(
            "answers", "Rows by task and label; free text has no label.", ["domain", "task", "label"], **here
        )
        self.truncated = Counter("truncated", "Rows whose input was cut.", ["domain", "task"], **here)
        self.abstained = Counter("abstained", "Rows whose score was below the bound.", ["domain", "task"], **here)
        self.batch_rows = Histogram("batch_rows", "Rows that entered a batch at once.", buckets=ROWS, **here)
        self.wait_seconds = Histogram(
            "wait_seconds", "That a row waited for its batch.", ["domain"], buckets=SECONDS, **here
        )
        self.waiting = Gauge("waiting_rows", "Rows that are in no batch yet.", **here)
        self.version = Gauge("version", "The version that answers.", ["domain"], **here)
        self.trouble = Gauge(
            "trouble", "1 while the champion cannot be followed, and the version before answers.", ["domain"], **here
        )
        self.changes = Counter("version_changes", "Versions that took over.", ["domain"], **here)
        self.log_failures = Counter("request_log_failures", "Rows that could not be logged.", **here)

    def waited(self, domain: str, seconds: float, rows: int) -> None:
        """Rows that entered a batch."""
        series = self.wait_seconds.labels(domain)
        for _ in range(rows):
            series.observe(seconds)

    def answered(self, served: Served, tasks: Sequence[str], answers: Sequence[Prediction]) -> None:
        """Rows that are on their way to whoever asked."""
        for task, answer in zip(tasks, answers, strict=True):
            label = answer.text if task in served.labelled else FREE
            self.answers.labels(served.domain, task, label).inc()
            if answer.truncated:
                self.truncated.labels(served.domain, task).inc()
            if answer.abstain:
                self.abstained.labels(served.domain, task).inc()

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
