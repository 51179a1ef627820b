"""The flow that looks whether changed rows call for a run of a domain, and starts its deployment then; it also ends a
review that nobody decided in time."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.runtime import flow_run

from alter_core.errors import AlterError
from alter_core.spec.load import load_domain
from flows.approval import show
from flows.deployments.names import domain_tag, full_name
from flows.deployments.zombies import TAG
from flows.news import tell, tell_in_vain
from flows.notify import notify
from flows.production import watch as looks
from flows.production.plan import Plan, find_domain
from flows.production.stores import model_store

OPEN = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED, StateType.PENDING, StateType.SCHEDULED]


def _run_name() -> str:
    given = str(flow_run.get_parameters().get("domain"))
    with suppress(AlterError):
        given = load_domain(find_domain(given)).name
    return f"{given} watch {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="watch", flow_run_name=_run_name, persist_result=False, validate_parameters=False, on_failure=[notify])
def watch(domain: str, data_root: str | None = None) -> str:
    """Look once at `domain`; why a run was started, or was not. Raises AlterError subclasses."""
    plan = Plan.read(domain, Path(data_root) if data_root else None)
    name = plan.spec.name
    if waited := looks.put_aside(plan):
        get_run_logger().info(tell_in_vain(waited))
    if plan.spec.promotion.mode == "review":
        show(model_store(plan.workspace), name)

    def start(why: str) -> None:
        started: Any = run_deployment(
            full_name(name), parameters={"why": why}, timeout=0, as_subflow=False, tags=[TAG, domain_tag(name)]
        )
        get_run_logger().info(f"started {started.name}: {why}")

    with get_client(sync_client=True) as client:
        busy = is_on(client, name)
    verdict = looks.watch(plan, busy, start)
    tell_news(name, verdict)
    get_run_logger().info(f"{name}: {'started' if verdict.start else 'not started'}: {verdict.why}")
    return verdict.why


def tell_news(name: str, verdict: looks.Verdict) -> None:
    """What a look found that people may want to hear of."""
    if verdict.start:
        tell("due", name, verdict.why)
    if verdict.stale:
        tell("stale", name, verdict.stale, verdict.champion)


def is_on(client: SyncPrefectClient, name: str) -> bool:
    """Whether a run of the domain is on, or is due and waits for a worker."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[domain_tag(name)]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)),
        )
    )
    now = datetime.now(UTC)
    return any(
        not (run.state and run.state.is_scheduled()) or (run.next_scheduled_start_time or now) <= now for run in runs
    )
