"""What ran last, what runs next and what is champion, per domain."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alter_core.errors import AlterError
from alter_core.spec import load_domain
from alter_core.workspace import Workspace
from flows.declarations import domain_tag
from flows.deploy import server_errors
from flows.plan import find_domain
from flows.stores import model_store
from registry.models import CHAMPION

_BEGUN = [state for state in StateType if state is not StateType.SCHEDULED]


@dataclass(frozen=True)
class DomainStatus:
    """One domain's row. Times are ISO 8601 in UTC; None where there is nothing to say."""

    domain: str
    problem: str | None
    """What is wrong with its spec."""
    state: str | None
    """Of the last flow run: Completed, Failed, Crashed, Cancelled, Running."""
    message: str | None
    """What that state says."""
    started: str | None
    run: str | None
    """Name of that flow run."""
    next: str | None
    """The next scheduled start."""
    champion: int | None
    macro: float | None
    """The champion's macro score."""
    promoted: str | None
    """When it became champion."""


def status(domains: Sequence[str]) -> list[DomainStatus]:
    """Status of the domains (names, folders or spec files); those with a wrong spec say what is wrong.

    Reads the Prefect server that PREFECT_API_URL names, else the database in the workspace. Raises RegistryError, and
    AlterError when the server does not answer.
    """
    store = model_store(Workspace.default())
    rows = []
    with server_errors(), get_client(sync_client=True) as client:
        for given in domains:
            name, problem = given, None
            try:
                name = load_domain(find_domain(given)).name
            except AlterError as error:
                problem = f"{error.headline}; `alter check {given}` shows them" if error.problems else error.headline
            last = _first(client, name, _BEGUN, FlowRunSort.START_TIME_DESC)
            coming = _first(client, name, [StateType.SCHEDULED], FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC)
            champion = store.alias(name, CHAMPION)
            rows.append(
                DomainStatus(
                    domain=name,
                    problem=problem,
                    state=last.state_name if last else None,
                    message=last.state.message if last and last.state else None,
                    started=_text(last.start_time) if last else None,
                    run=last.name if last else None,
                    next=_text(coming.next_scheduled_start_time) if coming else None,
                    champion=champion["version"] if champion else None,
                    macro=champion["macro"] if champion else None,
                    promoted=champion["tags"].get("promoted") if champion else None,
                )
            )
    return rows


def status_json(rows: Sequence[DomainStatus]) -> str:
    """Rows for programs."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def print_status(rows: Sequence[DomainStatus]) -> None:
    """Rows for people, and below them the reason of each bad end."""
    out = Console()
    if not rows:
        out.print("there is no domain under domains/; `alter new NAME FILE...` makes one")
        return
    table = Table("domain", "last run", "started (UTC)", "next (UTC)", "champion", "macro")
    for row in rows:
        table.add_row(
            escape(row.domain),
            row.state or "never ran",
            _short(row.started),
            _short(row.next) or "by hand",
            "none" if row.champion is None else f"version {row.champion}",
            "" if row.macro is None else f"{row.macro:.3f}",
        )
    out.print(table)
    for row in rows:
        if row.problem:
            out.print(f"{row.domain}: {row.problem}", markup=False, highlight=False, soft_wrap=True)
        elif row.state in ("Failed", "Crashed", "Cancelled") and row.message:
            out.print(f"{row.run}: {row.message.strip()}", markup=False, highlight=False, soft_wrap=True)


def _first(client: SyncPrefectClient, name: str, states: Sequence[StateType], order: FlowRunSort) -> FlowRun | None:
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[domain_tag(name)]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        ),
        sort=order,
        limit=1,
    )
    return found[0] if found else None


def _text(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat(timespec="seconds") if time else None


def _short(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else ""
