"""What ran last, what runs next and what is champion, per domain."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from rich.table import Table

from alter_core.errors import AlterError
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from flows.deployments.deploy import server_errors
from flows.deployments.names import domain_tag
from flows.production import review
from flows.production.display import plain_console
from flows.production.plan import find_domain
from flows.production.stores import model_store
from flows.production.watch import STALE, stale
from registry.models import REVIEW
from registry.versions import Version

LATE = timedelta(minutes=1)  # a worker asks for runs every ten to fifteen seconds
_ON = ([StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED], [StateType.PENDING])


@dataclass(frozen=True)
class DomainStatus:
    """One domain's row. Times are ISO 8601 in UTC; None where there is nothing to say."""

    domain: str
    problem: str | None
    """What is wrong with its spec."""
    state: str | None
    """Of the flow run that is on, else of the last that ended: Completed, Failed, Crashed, Cancelled, Running."""
    message: str | None
    """What that state says."""
    started: str | None
    run: str | None
    """Name of that flow run."""
    next: str | None
    """The next scheduled start, or the one that is late."""
    late: bool
    """Whether that start is due and nothing has taken it."""
    scheduled: bool
    """Whether its spec has an active schedule."""
    champion: int | None
    macro: float | None
    """The champion's macro score."""
    promoted: str | None
    """When it became champion."""
    waiting: int | None = None
    """The version that waits for a person's word."""
    waiting_until: str | None = None
    reviewers: str | None = None
    """Who may say it, names with commas; empty: whoever may move the alias."""
    stale: str | None = None
    """Why the champion is, where its spec asks."""

    @property
    def unknown(self) -> bool:
        """Whether its spec is wrong and nothing else is known of it: a model may outlive its spec, and is asked for by
        its name then."""
        return bool(self.problem) and not (self.state or self.next or self.champion)


def status(domains: Sequence[str]) -> list[DomainStatus]:
    """Status of the domains (names, folders or spec files); those with a wrong spec say what is wrong.

    Reads the Prefect server that PREFECT_API_URL names, else the database in the workspace. Raises RegistryError, and
    AlterError when the server does not answer.
    """
    with server_errors():
        return asyncio.run(_status(domains))


def _client() -> PrefectClient:
    """Of the server that PREFECT_API_URL names; else of the workspace's database in this process, as starting a server
    takes twice the time of reading it."""
    if PREFECT_API_URL.value():
        return get_client()
    from prefect.server.api.server import create_app  # late for speed: the half of Prefect that serves

    return PrefectClient(create_app(ephemeral=True))


async def _status(domains: Sequence[str]) -> list[DomainStatus]:
    store = model_store()
    rows = []
    async with _client() as client:
        for given in domains:
            name, problem, scheduled, spec = given, None, False, None
            try:
                spec = load_domain(find_domain(given))
                name, scheduled = spec.name, spec.schedule is not None and spec.schedule.active
            except AlterError as error:
                problem = f"{error.headline}; `alter check {given}` shows them" if error.problems else error.headline
            last = await _on(client, name) or await _last_ended(client, name)
            coming = await _first(client, name, [StateType.SCHEDULED], FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC)
            champion, waiting = store.champion(name), store.alias(name, REVIEW)
            rows.append(
                DomainStatus(
                    domain=name,
                    problem=problem,
                    state=last.state_name if last else None,
                    message=last.state.message if last and last.state else None,
                    started=_text(last.start_time) if last else None,
                    run=last.name if last else None,
                    next=_text(coming.next_scheduled_start_time) if coming else None,
                    late=coming is not None and is_late(coming),
                    scheduled=scheduled,
                    champion=champion["version"] if champion else None,
                    macro=champion["macro"] if champion else None,
                    promoted=champion["tags"].get("promoted") if champion else None,
                    waiting=waiting["version"] if waiting else None,
                    waiting_until=waiting["tags"].get("review_until") if waiting else None,
                    reviewers=waiting["tags"].get("reviewers") if waiting else None,
                    stale=_stale(champion, spec),
                )
            )
    return rows


def status_json(rows: Sequence[DomainStatus]) -> str:
    """Rows for programs."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def print_status(rows: Sequence[DomainStatus]) -> None:
    """Rows for people, and below them the reason of each bad end."""
    out = plain_console()
    if not rows:
        out.print("there is no domain under domains/; `alter new NAME FILE...` makes one")
        return
    table = Table("domain", "last run", "started (UTC)", "next (UTC)", "champion", "macro")
    for row in rows:
        table.add_row(
            row.domain,
            row.state or "never ran",
            _short(row.started),
            _next(row),
            "none" if row.champion is None else f"version {row.champion}",
            "" if row.macro is None else f"{row.macro:.3f}",
        )
    out.print(table)
    for row in rows:
        if row.problem:
            out.print(f"{row.domain}: {row.problem}")
        elif row.state in ("Failed", "Crashed", "Cancelled") and row.message:
            out.print(f"{row.run}: {row.message.strip()}")
        for line in filter(None, (_advice(row), _asked(row), _told_stale(row))):
            out.print(line)


def _next(row: DomainStatus) -> str:
    if row.next is None:
        return "not served" if row.scheduled else "by hand"
    return f"late since {_short(row.next)}" if row.late else _short(row.next)


def _advice(row: DomainStatus) -> str | None:
    """What to do where a start that is asked for does not come."""
    if row.late:
        return f"{row.domain}: nothing has taken the run that is due; start a worker of its pool, or `alter serve`"
    if row.next is None and row.scheduled:
        return (
            f"{row.domain}: its spec has a schedule, and no start is planned; `alter deploy` with a worker, or `alter "
            "serve`, plans them"
        )
    return None


def _stale(champion: Version | None, spec: DomainSpec | None) -> str | None:
    """As the last look at its rows left it or, where none was made, by its age alone."""
    if champion is None or spec is None or spec.freshness is None:
        return None
    return champion["tags"].get(STALE) or stale(champion, spec, None, review.now()) or None


def _told_stale(row: DomainStatus) -> str | None:
    return f"{row.domain}: version {row.champion} is stale: {row.stale}" if row.stale else None


def _asked(row: DomainStatus) -> str | None:
    """What waits for a person's word."""
    if row.waiting is None:
        return None
    by = f" by {row.reviewers.replace(',', ', ')}" if row.reviewers else ""
    over = row.waiting_until and row.waiting_until < review.stamp(review.now())
    until = f"{'over its limit since' if over else 'until'} {_short(row.waiting_until)}"
    return (
        f"{row.domain}: version {row.waiting} waits for approval{by}, {until} (UTC): `alter promote {row.domain} "
        f"--reason TEXT` or `alter reject {row.domain} --reason TEXT`; its card and `alter compare` tell the scores"
    )


async def _on(client: PrefectClient, name: str) -> FlowRun | None:
    """The flow run that runs, else one that a worker has taken: it may yet be refused because the other runs."""
    for states in _ON:
        if run := await _first(client, name, states, FlowRunSort.START_TIME_DESC):
            return run
    return None


async def _last_ended(client: PrefectClient, name: str) -> FlowRun | None:
    """The flow run that ended last, but for those that were cancelled before they began: a domain that still ran has
    these refused.
    """
    ends = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED]
    began = FlowRunFilterStartTime(is_null_=False)
    found = [
        await _first(client, name, ends, FlowRunSort.END_TIME_DESC),
        await _first(client, name, [StateType.CANCELLED], FlowRunSort.END_TIME_DESC, began),
    ]
    never = datetime.min.replace(tzinfo=UTC)
    return max((run for run in found if run), key=lambda run: run.end_time or never, default=None)


async def _first(
    client: PrefectClient,
    name: str,
    states: Sequence[StateType],
    order: FlowRunSort,
    began: FlowRunFilterStartTime | None = None,
) -> FlowRun | None:
    found = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[domain_tag(name)]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
            start_time=began,
        ),
        sort=order,
        limit=1,
    )
    return found[0] if found else None


def is_late(run: FlowRun) -> bool:
    """Whether a flow run that should have begun has been taken by nothing."""
    if run.state is None or not run.state.is_scheduled():
        return False
    due = run.next_scheduled_start_time or run.expected_start_time
    return run.state.name == "Late" or (due is not None and due < datetime.now(UTC) - LATE)


def _text(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat(timespec="seconds") if time else None


def _short(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else ""
