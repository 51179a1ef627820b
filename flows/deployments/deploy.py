"""Deployments on a Prefect server: one per domain, kept equal to its spec by calling `deploy` again."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx import HTTPError, HTTPStatusError, InvalidURL
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from alter_core.errors import AlterError
from alter_core.job import TERMINATED
from alter_core.spec.load import load_domain
from flows.deployments.declarations import (
    DEFAULT_POOL,
    ENTRYPOINT,
    REVIEW,
    SLUG,
    WATCH,
    Declared,
    declare,
    own_schedule,
)
from flows.deployments.schedules import Schedule
from flows.deployments.zombies import TAG, apply_automation, zombie_automation
from flows.production.ending import is_of_sigterm
from flows.production.plan import domain_folders, find_domain
from flows.production.review import REVIEW_TAG

OURS = (ENTRYPOINT, WATCH[1], REVIEW[1])


@dataclass(frozen=True)
class Change:
    """What `deploy` did about one thing."""

    name: str
    what: str
    """created, changed, unchanged, removed, or orphan: a deployment whose spec is gone."""
    detail: str = ""


def deploy(
    domains: Sequence[str],
    work_pool: str | None,
    *,
    data_root: Path | None = None,
    whole: bool = False,
    prune: bool = False,
) -> list[Change]:
    """Make the server's deployments equal to the domains' specs; a second call changes nothing.

    work_pool: where flow runs start; None for deployments that `alter serve` runs itself. A pool called `alter` is made
    as one of processes when it is missing. whole: other deployments of ours are looked at as well, and those whose spec
    is gone are reported, and deleted with `prune`. Raises AlterError when no server answers or the pool is not there.
    """
    declare(domains, work_pool, data_root)  # a wrong spec is told before the server is touched
    with server_client() as client:
        changes, pool_type = [], "process"
        if work_pool:
            change, pool_type = ensure_pool(client, work_pool)
            changes.append(change)
        declared = declare(domains, work_pool, data_root, pool_type)
        changes += [_apply(client, one) for one in declared]
        changes += _unasked(client, declared)
        if whole:
            changes += _orphans(client, {one.name for one in declared}, prune)
        changes.append(Change("automation", apply_automation(client, zombie_automation())))
    return changes


@contextmanager
def server_client() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server that the environment or profile names. Raises AlterError when there is none."""
    url = PREFECT_API_URL.value()
    if not url:
        raise AlterError(
            "deployments live on a Prefect server, and none is named: start one (`prefect server start`) and set "
            "PREFECT_API_URL, such as http://127.0.0.1:4200/api, or let one machine do it all with `alter serve`"
        )
    with server_errors(), get_client(sync_client=True) as client:
        yield client


@contextmanager
def server_errors() -> Iterator[None]:
    """Says which Prefect server did not do what was asked, and what to look at: raises AlterError, transient.

    After SIGTERM it is SystemExit instead: a server in our process group ends with us, and is not to blame.
    """
    try:
        yield
    except Exception as error:
        if is_of_sigterm(error):
            sys.exit(TERMINATED)
        # Prefect wraps a server that is away in a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, HTTPError | InvalidURL):
            raise
        given = PREFECT_API_URL.value()
        advice = "check PREFECT_API_URL and that the server runs" if given else "run the same command again"
        if isinstance(cause, HTTPStatusError) and cause.response.status_code in (401, 403):
            advice = "set PREFECT_API_AUTH_STRING to admin:PASSWORD"
        text = " ".join(str(cause).split())[:300] or "it gave no answer in time"
        raise AlterError(
            f"the Prefect server {given or 'of this run'} did not do it: {text}; {advice}", transient=True
        ) from error


def ensure_pool(client: SyncPrefectClient, name: str) -> tuple[Change, str]:
    """What was done about the pool, and its type. Raises AlterError when it is missing and not called `alter`."""
    try:
        return Change(f"work pool {name}", "unchanged"), client.read_work_pool(name).type
    except ObjectNotFound:
        if name != DEFAULT_POOL:
            raise AlterError(
                f"there is no work pool {name!r}; make it with `prefect work-pool create {name} --type process` (or "
                "docker, kubernetes)"
            ) from None
    client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return Change(
        f"work pool {name}", "created", f"start a worker with `prefect worker start --pool {name}`"
    ), "process"


def _apply(client: SyncPrefectClient, one: Declared) -> Change:
    schedule = own_schedule(one.schedule) if one.schedule else None
    try:
        known = client.read_deployment_by_name(one.full_name)
    except ObjectNotFound:
        flow_id = client.create_flow_from_name(one.flow)
        fields = {**one.fields, "concurrency_options": ConcurrencyOptions(**one.fields["concurrency_options"])}
        client.create_deployment(flow_id, one.name, schedules=[schedule] if schedule else None, pull_steps=[], **fields)
        return Change(one.title, "created", _when(one.schedule))
    now = _fields(known)
    differing = [key for key, value in one.fields.items() if now[key] != value]
    if differing:
        client.update_deployment(known.id, DeploymentUpdate(**one.fields, pull_steps=[], path=None))
    if _reschedule(client, known, one.schedule):
        differing.append("schedule")
    if not differing:
        return Change(one.title, "unchanged", _when(one.schedule))
    return Change(one.title, "changed", f"{', '.join(differing)}; {_when(one.schedule)}")


def _unasked(client: SyncPrefectClient, declared: Sequence[Declared]) -> list[Change]:
    """Remove the looks at domains, and the questions to people, that specs ask for no more."""
    changes = []
    for flow, without in ((WATCH[0], "no trigger, no freshness and no review"), (REVIEW[0], "no review")):
        for name in sorted({one.name for one in declared} - {one.name for one in declared if one.flow == flow}):
            with suppress(ObjectNotFound):
                _remove(client, client.read_deployment_by_name(f"{flow}/{name}"), f"its spec has {without}")
                changes.append(Change(f"{name} ({flow})", "removed", f"its spec has {without}"))
    return changes


def _remove(client: SyncPrefectClient, known: DeploymentResponse, why: str) -> None:
    """Delete a deployment; its runs that wait for a person could not go on without it."""
    if known.entrypoint == REVIEW[1]:
        from flows.approval import end_all  # late for speed, as all flows

        end_all(client, known.name, why)
    client.delete_deployment(known.id)


def _fields(known: DeploymentResponse) -> dict[str, Any]:
    """A deployment as the server has it, in the words of Declared.fields."""
    limit, options = known.global_concurrency_limit, known.concurrency_options
    return {
        **known.model_dump(
            include={"description", "parameters", "parameter_openapi_schema", "enforce_parameter_schema", "paused"}
        ),
        "tags": sorted(known.tags),
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": {"collision_strategy": options.collision_strategy.value} if options else None,
        "entrypoint": known.entrypoint,
        "work_pool_name": known.work_pool_name,
        "job_variables": known.job_variables,
    }


def _reschedule(client: SyncPrefectClient, known: DeploymentResponse, wanted: Schedule | None) -> bool:
    """Make the spec's schedule the deployment's; whether anything had to change. Its future runs follow."""
    own = [schedule for schedule in known.schedules if schedule.slug == SLUG]
    if wanted is None:
        for schedule in own:
            client.delete_deployment_schedule(known.id, schedule.id)
        return bool(own)
    if not own:
        client.create_deployment_schedules(known.id, [own_schedule(wanted)])
        return True
    now = own[0].schedule
    same = isinstance(now, CronSchedule) and (now.cron, now.timezone) == (wanted.cron, wanted.timezone)
    if same and own[0].active == wanted.active:
        return False
    client.update_deployment_schedule(known.id, own[0].id, active=wanted.active, schedule=wanted.of_prefect())
    return True


def _orphans(client: SyncPrefectClient, names: set[str], prune: bool) -> list[Change]:
    """Deployments of ours whose spec is gone. Those of specs in other folders are somebody else's to look after."""
    tags = DeploymentFilterTags(any_=[TAG, REVIEW_TAG])
    ours = client.read_deployments(deployment_filter=DeploymentFilter(tags=tags))
    changes = []
    for known in ours:
        given = str(known.parameters.get("domain"))
        if known.name in names or known.entrypoint not in OURS or _has_spec(given, known.name):
            continue
        gone = f"{given} holds no spec of that name"
        if prune:
            _remove(client, known, gone)
            changes.append(Change(known.name, "removed", gone))
        else:
            detail = f"{gone} on this machine; if it is on no other, `alter deploy --prune` removes the deployment"
            changes.append(Change(known.name, "orphan", detail))
    return changes


def _has_spec(given: str, name: str) -> bool:
    """Whether a deployment's `domain`, a path or a shipped name, still leads to a spec of the deployment's name."""
    try:
        there = Path(given).exists() if Path(given).is_absolute() else given in domain_folders()
        return there and load_domain(find_domain(given)).name == name
    except (AlterError, OSError):
        return True  # it is there, and this user may not read it, or it is wrong until somebody mends it


def _when(schedule: Schedule | None) -> str:
    if schedule is None:
        return "no schedule"
    return f"{schedule.cron} {schedule.timezone}" + ("" if schedule.active else " (not active)")
