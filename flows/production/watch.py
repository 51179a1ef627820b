"""Whether changed rows call for a run, whether a champion is stale, and whether a review has gone on for too long:
looked at without training anything."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from alter_core.data.dataset import SPLITS, TaskDataset
from alter_core.data.ingest import ingest
from alter_core.errors import WorkspaceError
from alter_core.spec import DomainSpec, TriggerSpec
from alter_core.spec.span import length
from alter_core.whole import write_json
from flows.production import review
from flows.production.plan import Plan
from flows.production.stores import Stores, write_card
from registry.errors import RegistryError
from registry.models import REVIEW
from registry.versions import Version

LONGEST_REST = timedelta(days=7)
STALE = "stale"  # tag of a champion: since when and why


@dataclass(frozen=True)
class Seen:
    """What one look finds."""

    digest: str
    """Of the rows as they are now."""
    made: frozenset[str]
    """Digests of the rows of versions of which what was decided holds today."""
    champion: str | None
    """Digest of the champion's rows; None where there is no champion."""
    changed: float | None = None
    """Share of rows that are new or gone since the champion's; None where those are not here to compare with."""
    drifted: tuple[str, ...] = ()
    """Tasks whose labels drifted over their bound, in words."""
    busy: bool = False
    """Whether a run of the domain is on, or is about to be."""


@dataclass(frozen=True)
class Started:
    """The last start that the trigger made; kept in the domain's folder."""

    at: str = ""
    """UTC; empty before the first."""
    digest: str = ""
    """Of the rows that it was made for."""
    close: int = 0
    """How many starts followed each other closely."""

    def rests_until(self, trigger: TriggerSpec) -> datetime:
        """When the next start may be."""
        if not self.at:
            return datetime.min.replace(tzinfo=UTC)
        return datetime.fromisoformat(self.at) + self._rest(trigger)

    def _rest(self, trigger: TriggerSpec) -> timedelta:
        times: int = 2 ** min(self.close, 20)
        return min(length(trigger.rest) * times, LONGEST_REST)

    def then(self, now: datetime, digest: str, trigger: TriggerSpec) -> "Started":
        """After one more start."""
        close = bool(self.at) and now < datetime.fromisoformat(self.at) + 2 * self._rest(trigger)
        return Started(review.stamp(now), digest, self.close + 1 if close else 0)


@dataclass(frozen=True)
class Verdict:
    """What a look comes to."""

    start: bool
    why: str
    stale: str = ""
    """Why the champion is stale, where it became so now."""
    champion: int | None = None


def decide(trigger: TriggerSpec, seen: Seen, started: Started, now: datetime) -> Verdict:
    """Whether a run is due. Pure; `now` is in UTC.

    A run is due for rows of which nothing was decided that holds, and that differ from the champion's by more than the
    share, or drifted. It waits while a run is on and while the last start is too near; the next look finds it again.
    """
    if seen.digest in seen.made:
        return Verdict(False, "a version was made of just these rows")
    if seen.champion is None:
        why = "there is no champion yet"
    elif seen.changed is None:
        why = "rows changed, how many is not known: the champion's rows are not in this workspace"
    elif seen.changed > trigger.changed:
        why = f"{seen.changed:.1%} of the rows changed, more than {trigger.changed:.1%}"
    elif seen.drifted:
        why = "; ".join(seen.drifted)
    else:
        return Verdict(False, f"{seen.changed:.1%} of the rows changed, no more than {trigger.changed:.1%}")
    if seen.busy:
        return Verdict(False, f"{why}, and a run is on")
    if now < (rests := started.rests_until(trigger)):
        of = ", which was for just these rows and led to no version" if started.digest == seen.digest else ""
        return Verdict(False, f"{why}; it rests until {rests:%Y-%m-%d %H:%M} UTC after the last start{of}")
    return Verdict(True, why)


def stale(champion: Version | None, spec: DomainSpec, seen: Seen | None, now: datetime) -> str:
    """Why a champion is stale, in words; empty where it is not, or its spec does not ask. seen: None where nobody
    looked at the rows."""
    freshness = spec.freshness
    if champion is None or freshness is None:
        return ""
    age = now - datetime.fromtimestamp(champion["created"] / 1000, UTC)
    reasons = [f"it is {age.days} days old, and freshness is {freshness}"] if age > length(freshness) else []
    if seen and seen.digest not in seen.made:
        few = spec.trigger.changed if spec.trigger else 0.0
        if seen.changed is None or seen.changed > few:
            share = "" if seen.changed is None else f" ({seen.changed:.1%} of them)"
            reasons.append(f"its rows have changed{share}")
    return "; ".join(reasons)


def watch(plan: Plan, busy: bool, start: Callable[[str], None]) -> Verdict:
    """One look: `start(why)` is called where a run is due, and remembered if it raises nothing. busy: as in `Seen`.

    A champion that became stale, or is so no longer, has that in its tags and its card. Raises DataError,
    RegistryError, and WorkspaceError while another process looks.
    """
    store, name, now = Stores(plan.workspace, plan.spec.name).models, plan.spec.name, review.now()
    with remembered(plan) as memory:
        seen = look(plan, busy) if plan.spec.trigger or plan.spec.freshness else None
        started, verdict = memory.read(), Verdict(False, "its spec has no trigger")
        if seen and (trigger := plan.spec.trigger):
            verdict = decide(trigger, seen, started, now)
            if verdict.start:
                start(verdict.why)
                memory.write(started.then(now, seen.digest, trigger))
        champion = store.champion(name)
        text = stale(champion, plan.spec, seen, now)
        if champion is None or bool(text) == bool(champion["tags"].get(STALE)):
            return verdict
        store.tag(name, champion["version"], {STALE: f"since {now:%Y-%m-%d}: {text}" if text else ""})
        with suppress(RegistryError):  # its files may be gone; its tags tell it
            write_card(store, name, champion["version"])
        return replace(verdict, stale=text, champion=champion["version"])


def put_aside(plan: Plan) -> Version | None:
    """End the wait of a version that nobody decided on in time; None where none waited so long, or a run of the domain
    is on, which has done so. Raises RegistryError."""
    store, lock = Stores(plan.workspace, plan.spec.name).models, FileLock(plan.lock_file, timeout=0)
    waiting = store.alias(plan.spec.name, REVIEW)
    if waiting is None or not review.is_overdue(waiting):
        return None  # a run that starts just now finds its lock free
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout), lock:
        return review.put_aside(plan, store)
    return None


def look(plan: Plan, busy: bool = False) -> Seen:
    """Read what is needed of the sources, and compare with the champion's rows. Raises DataError, RegistryError."""
    from flows.production.earlier import stands  # torch comes with it

    store, name = Stores(plan.workspace, plan.spec.name).models, plan.spec.name
    champion, asks = store.champion(name), plan.spec.promotion.mode == "review"
    rows = ingest(plan.spec, plan.folder, plan.workspace, plan.data_root)
    made = {
        row["tags"].get("data_digest", "")
        for row in store.listed(name)
        if "decision_reason" in row["tags"] and stands(row, champion, asks)
    }
    before = champion["tags"].get("data_digest", "") if champion else None
    seen = Seen(rows.digest, frozenset(made - {""}), before, busy=busy)
    if before is None or before == rows.digest or (known := _dataset(plan, before)) is None:
        return replace(seen, changed=0.0) if before == rows.digest else seen
    return replace(seen, changed=changed_share(rows, known), drifted=tuple(_drifted(plan, rows, known)))


def changed_share(now: TaskDataset, before: TaskDataset) -> float:
    """Rows that are in one of both data sets only, by task, split, input and target, as a share of the larger one."""
    one, two = _rows_of(now), _rows_of(before)
    gone, new = sum((two - one).values()), sum((one - two).values())
    return max(gone, new) / max(one.total(), two.total(), 1)


def _rows_of(rows: TaskDataset) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for task in rows.task_names:
        for split in SPLITS:
            for batch in rows.rows(split, task).select_columns(["input", "target"]).iter(batch_size=1000):
                for pair in zip(batch["input"], batch["target"], strict=True):
                    text = "\0".join((task, split, *pair))
                    found[hashlib.blake2b(text.encode(), digest_size=8).digest()] += 1
    return found


def _drifted(plan: Plan, now: TaskDataset, before: TaskDataset) -> Iterator[str]:
    """Tasks whose label shares moved by more than `quality > max_drift`, which the manifests tell."""
    from alter_core.quality.profile import total_variation

    for task in plan.spec.tasks:
        if task.name not in now.task_names or task.name not in before.task_names:
            continue
        counts = [one.manifest["tasks"][task.name]["label_counts"].get("train", {}) for one in (now, before)]
        if all(counts):
            distance = total_variation(*(_shares(each) for each in counts))
            if distance > task.quality.max_drift:
                yield f"labels of {task.name} drifted by {distance:.2f}, more than {task.quality.max_drift:g}"


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    return {label: count / sum(counts.values()) for label, count in counts.items()}


def _dataset(plan: Plan, digest: str) -> TaskDataset | None:
    """The data set of this workspace with these rows; None where it was removed or made elsewhere."""
    for manifest in plan.workspace.datasets.glob("*/manifest.json"):
        if json.loads(manifest.read_text(encoding="utf-8")).get("digest") == digest:
            return TaskDataset.open(manifest.parent)
    return None


def is_alone(plan: Plan) -> bool:
    """Whether no run of the domain is on in this workspace."""
    if not plan.lock_file.exists():
        return True
    try:
        with FileLock(plan.lock_file, timeout=0):
            return True
    except Timeout:
        return False


@contextmanager
def remembered(plan: Plan) -> Iterator["Memory"]:
    """What the trigger did last, held by one process at a time. Raises WorkspaceError where another one has it."""
    folder = plan.lock_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".watch.lock", timeout=0):
            yield Memory(folder / "watch.json")
    except Timeout:
        raise WorkspaceError(f"{plan.spec.name} is being looked at by another process; try again") from None


@dataclass
class Memory:
    """The last start, on disk."""

    file: Path

    def read(self) -> Started:
        try:
            return Started(**json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Started()  # a start too early does less harm than none

    def write(self, started: Started) -> None:
        write_json(self.file, asdict(started))
