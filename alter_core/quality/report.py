"""Validation of a data set against its spec: what blocks, what warns, which rows, and what to do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from alter_core.data.dataset import TaskDataset
from alter_core.data.manifest import Reported
from alter_core.errors import QualityBlocked
from alter_core.problems import listed
from alter_core.quality.doubtful import Doubtful, doubtful_rows
from alter_core.quality.profile import COMPARED, Profile, drift, largest_changes
from alter_core.quality.task import Item, Outcome, check_task
from alter_core.spec import DomainSpec, TaskSpec

SAMPLES = 3  # rows of a task that a report shows
SAMPLE_CHARACTERS = 400


class TaskReport(Reported):
    """The same with what its spec says, and a few rows."""

    description: str
    licence: str
    limits: dict[str, int]
    samples: list[dict[str, str]]


@dataclass(frozen=True)
class QualityReport:
    """All checks of a domain's data, as data."""

    domain: str
    digest: str
    items: tuple[Item, ...]
    tasks: dict[str, TaskReport]
    profile: dict[str, Profile]
    """Task -> profile of its training rows; the next run's `champion_profile`."""
    drift: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> distances from the champion's training rows; empty when there is no champion."""
    doubtful: dict[str, Doubtful] = field(default_factory=dict)
    """Label task -> its rows whose label is probably wrong."""
    gx_json: dict[str, dict[str, list[object]]] = field(default_factory=dict)
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
            "doubtful": {
                name: {"looked_at": one.looked_at, "rows": len(one.rows)} for name, one in self.doubtful.items()
            },
        }

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
    dataset: TaskDataset,
    spec: DomainSpec,
    tokenizer: Any | None,
    champion_profile: Mapping[str, Profile] | None = None,
    progress: Callable[..., None] | None = None,
    config: Any | None = None,
) -> QualityReport:
    """Check every task's rows. What encoding does to them is looked at in a sample, by the functions and the prompt
    format that a new model is taught with, and not at all without a tokenizer. config: the backbone's, which says how
    much it can read; unset: that is not looked at.

    `champion_profile` is `to_json()["profile"]` of the champion's report. `progress(done, total, text=)` counts tasks.
    Raises SpecError for an expectation that does not exist; what is wrong with the rows is in the report.
    """
    items: list[Item] = []
    profiles: dict[str, Profile] = {}
    distances: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, list[object]]] = {}
    advance = progress or (lambda *_, **__: None)
    for number, task in enumerate(spec.tasks):
        advance(number, len(spec.tasks), text=task.name)
        task_items, profiles[task.name], found[task.name] = check_task(dataset, task, tokenizer, config)
        items += task_items
        before = (champion_profile or {}).get(task.name)
        if before:
            distances[task.name] = drift(profiles[task.name], before)
            items += list(_drifted(task, profiles[task.name], before, distances[task.name]))
    advance(len(spec.tasks), len(spec.tasks))
    tasks = {task.name: _reported(task, dataset) for task in spec.tasks}
    doubtful = {task.name: doubtful_rows(dataset, task.name) for task in spec.tasks if task.task_type.labelled}
    return QualityReport(spec.name, dataset.digest, tuple(items), tasks, profiles, distances, doubtful, found)


def _reported(task: TaskSpec, dataset: TaskDataset) -> TaskReport:
    counted: Mapping[str, object] = dataset.manifest["tasks"][task.name]
    return {
        **cast(Reported, {name: counted[name] for name in Reported.__annotations__}),
        "description": task.description,
        "licence": task.licence,
        "limits": {"input": task.max_input_tokens, "target": task.effective_max_target_tokens},
        "samples": _samples(dataset, task.name),
    }


def _samples(dataset: TaskDataset, task: str) -> list[dict[str, str]]:
    """The first training rows in order of hash, which is a fair sample, and their places."""
    rows = dataset.placed_rows("train", task)
    found = []
    for row in rows.select(range(min(SAMPLES, len(rows)))):
        whole = {name: row[name] for name in ("input", "target")}
        texts = {k: v if len(v) <= SAMPLE_CHARACTERS else v[:SAMPLE_CHARACTERS] + " ..." for k, v in whole.items()}
        found.append({**texts, "place": dataset.place(task, row["file"], row["line"])})
    return found


def _drifted(task: TaskSpec, now: Profile, before: Profile, distances: Mapping[str, float]) -> Iterator[Item]:
    counts: dict[str, Literal["rows", "test_rows"]] = {
        "training rows": "rows",
        "test rows": "test_rows",
    }  # the latter where they are a source of their own
    for kind, key in counts.items():
        if not (key in now and key in before):
            continue
        least, gone = (1 - task.quality.max_row_drop) * before[key], 1 - now[key] / max(before[key], 1)
        text = (
            f"{now[key]:,} {kind} where the champion had {before[key]:,}, {gone:.0%} fewer; "
            f"quality > max_row_drop is {task.quality.max_row_drop:g}"
        )
        remedy = "see that the source is whole; if so many rows are meant to go, raise max_row_drop"
        yield _item(task, f"{kind} since the champion", "block", now[key] < least, text, remedy)
    labels_by_change = {
        "no more": before["labels"].keys() - now["labels"],
        "new": now["labels"].keys() - before["labels"],
    }
    changed = [f"{how}: {listed(sorted(labels))}" for how, labels in labels_by_change.items() if labels]
    text = f"labels of the training rows since the champion: {'; '.join(changed)}"
    remedy = "see that this is meant; a task that lists its labels blocks on others"
    yield _item(task, "labels since the champion", "warn", bool(changed), text, remedy)
    limit = task.quality.max_drift
    for name, distance in distances.items():
        text = f"{name} are {distance:.2f} from the champion's training rows; quality > max_drift is {limit:g}"
        rows = tuple(largest_changes(now, before, COMPARED[name])) if name != "input lengths" else ()
        remedy = "see that the source still means the same; the champion knew other rows"
        yield _item(task, f"drift of {name}", "warn", distance > limit, text, remedy, rows)


def _item(
    task: TaskSpec, check: str, severity: Outcome, wrong: bool, text: str, remedy: str, rows: tuple[str, ...] = ()
) -> Item:
    """The result of a comparison with the champion; its words stand there only where something is wrong."""
    return Item(task.name, check, severity, text, remedy, rows) if wrong else Item(task.name, check, "ok", rows=rows)
