"""Validation of a data set against its spec: what blocks, what warns, which rows, and what to do."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from alter_core.data.dataset import TaskDataset
from alter_core.data.profile import Profile, drift, largest_changes
from alter_core.data.task_quality import Item, Outcome, check_task
from alter_core.errors import QualityBlocked
from alter_core.spec import DomainSpec, TaskSpec


@dataclass(frozen=True)
class QualityReport:
    """All checks of a domain's data, as data."""

    domain: str
    digest: str
    items: tuple[Item, ...]
    tasks: dict[str, Any]
    """Task -> counts of rows, duplicates, leakage and contradictions, labels, and where the rows came from."""
    profile: dict[str, Profile]
    """Task -> profile of its training rows; the next run's `champion_profile`."""
    drift: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> distances from the champion's training rows; empty when there is no champion."""
    gx_json: dict[str, Any] = field(default_factory=dict)
    """Task -> validation results of Great Expectations, in its own form."""

    @property
    def outcome(self) -> Outcome:
        found = {item.outcome for item in self.items}
        return "block" if "block" in found else "warn" if "warn" in found else "ok"

    def wrong(self, outcome: Outcome) -> list[Item]:
        """Items of one outcome, in order."""
        return [item for item in self.items if item.outcome == outcome]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; without Great Expectations' own results, which are in `gx_json`."""
        return {
            "outcome": self.outcome,
            "domain": self.domain,
            "digest": self.digest,
            "warnings": [f"{item.task}: {item.text}" for item in self.wrong("warn")],
            "items": [asdict(item) for item in self.items],
            "tasks": self.tasks,
            "profile": self.profile,
            "drift": self.drift,
        }

    def to_html(self) -> str:
        """One page that needs no network."""
        from alter_core.data.quality_page import quality_page

        return quality_page(self)

    def raise_if_blocked(self) -> None:
        """Raises QualityBlocked with every blocking check, and its first rows with file and line."""
        blocking = self.wrong("block")
        if not blocking:
            return
        problems = []
        for item in blocking:
            problems.append("\n      ".join((f"{item.task}: {item.text}; {item.remedy}", *item.rows)))
        checks = "1 check" if len(blocking) == 1 else f"{len(blocking)} checks"
        raise QualityBlocked(f"domain {self.domain}: its data is blocked by {checks}; nothing was trained", problems)


def validate(
    dataset: TaskDataset, spec: DomainSpec, tokenizer: Any | None, champion_profile: Mapping[str, Any] | None = None
) -> QualityReport:
    """Check every task's rows. Token lengths are measured on a sample, and not at all without a tokenizer.

    `champion_profile` is `to_json()["profile"]` of the champion's report. Raises SpecError for an expectation that does
    not exist; what is wrong with the rows is in the report.
    """
    items: list[Item] = []
    profiles: dict[str, Profile] = {}
    distances: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {}
    for task in spec.tasks:
        task_items, profiles[task.name], found[task.name] = check_task(dataset, task, tokenizer)
        items += task_items
        before = (champion_profile or {}).get(task.name)
        if before:
            distances[task.name] = drift(profiles[task.name], before)
            items += list(_drifted(task, profiles[task.name], before, distances[task.name]))
    kept = ("rows", "read", "duplicates", "leakage", "contradictions", "label_counts", "sources", "licence", "type")
    tasks = {name: {k: dataset.manifest["tasks"][name][k] for k in kept} for name in spec.task_names}
    return QualityReport(spec.name, dataset.digest, tuple(items), tasks, profiles, distances, found)


def _drifted(task: TaskSpec, now: Profile, before: Profile, distances: Mapping[str, float]) -> Iterator[Item]:
    keys = {"labels": "labels", "words": "words", "input lengths": "length_bins"}
    limit = task.quality.max_drift
    for name, distance in distances.items():
        outcome: Outcome = "warn" if distance > limit else "ok"
        text = f"{name} are {distance:.2f} from the champion's training rows; quality > max_drift is {limit:g}"
        rows = tuple(largest_changes(now, before, keys[name])) if name != "input lengths" else ()
        remedy = "see that the source still means the same; the champion knew other rows"
        wrong = outcome == "warn"
        yield Item(task.name, f"drift of {name}", outcome, text if wrong else "", remedy if wrong else "", rows)
