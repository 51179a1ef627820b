"""What each domain's deployment is to be, read from its spec.

A deployment's domain parameter is a name where the spec ships with the installed package, else the spec's absolute
path. Its flow is named by module (`flows.produce.produce`), so a worker needs the package installed and nothing else.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.utilities.callables import parameter_schema

from alter_core.errors import AlterError, SpecError
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace
from flows.deployments.names import FLOW, domain_tag
from flows.deployments.schedules import STAGGER_MINUTES, Schedule, shifted, staggered
from flows.deployments.zombies import HEARTBEAT_SECONDS, TAG
from flows.production.plan import domain_folders, find_domain, named_once
from flows.production.review import REVIEW_FLOW, REVIEW_TAG, review_tag

ENTRYPOINT = "flows.produce.produce"
DEFAULT_POOL = "alter"
"""Made as a pool of processes where it is missing."""
WATCH = ("watch", "flows.deployments.watch.watch")
"""Flow and entrypoint of the look at a domain: at its rows where its spec has a trigger or a freshness, and at what
waits for a person."""
REVIEW = (REVIEW_FLOW, "flows.approval.ask")
"""Flow and entrypoint of the question that people answer in Prefect's pages, where a spec asks them."""
WATCHED_AT = {"15m": "*/15 * * * *", "1h": "7 * * * *", "6h": "7 */6 * * *", "1d": "7 6 * * *"}
SLUG = "spec"
"""Of the schedule that comes from the spec; schedules that people add under other names are left alone."""


@dataclass(frozen=True)
class Declared:
    """What a domain's deployment is to be."""

    name: str
    fields: Mapping[str, Any]
    schedule: Schedule | None
    flow: str = FLOW

    @property
    def full_name(self) -> str:
        """How Prefect calls it."""
        return f"{self.flow}/{self.name}"

    @property
    def title(self) -> str:
        """How people are told of it."""
        return self.name if self.flow == FLOW else f"{self.name} ({self.flow})"

    @property
    def limit(self) -> ConcurrencyLimitConfig:
        """One run of a domain at a time; a second one is cancelled, or waits where it holds a person's answer."""
        return ConcurrencyLimitConfig(limit=1, **self.fields["concurrency_options"])


def declare(
    domains: Sequence[str], work_pool: str | None, data_root: Path | None = None, pool_type: str = "process"
) -> list[Declared]:
    """Deployments of the domains (names, folders or spec files). Raises AlterError with every wrong spec."""
    from flows.approval import ask
    from flows.deployments.watch import watch
    from flows.produce import produce

    specs: dict[str, DomainSpec] = {}
    found: dict[str, Path] = {}
    wrong: list[AlterError] = []
    for given in domains:
        try:
            file = find_domain(given)
            spec = load_domain(file)
            named_once(spec, file, found)
            specs[spec.name] = spec
        except AlterError as error:
            wrong.append(error)
    if wrong:
        raise AlterError("\n".join(map(str, wrong)))
    schedules = staggered({**_found(), **specs})
    for name in sorted(specs.keys() & schedules.keys()):
        try:
            schedules[name].of_prefect()
        except SpecError as error:
            wrong.append(SpecError(f"{found[name]}: {error}"))
    if wrong:
        raise AlterError("\n".join(map(str, wrong)))
    root = {"data_root": str(data_root.absolute())} if data_root else {}

    def fields(name: str, flow: Any, entrypoint: str, *tags: str, **others: Any) -> dict[str, Any]:
        return {
            "description": specs[name].description,
            "tags": list(tags),
            "parameters": {"domain": _reference(found[name]), **root},
            "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
            "enforce_parameter_schema": True,
            "paused": False,
            "concurrency_limit": 1,
            "concurrency_options": {"collision_strategy": ConcurrencyLimitStrategy.CANCEL_NEW.value},
            "entrypoint": entrypoint,
            "work_pool_name": work_pool,
            "job_variables": {"env": environment(pool_type)} if work_pool else {},
            **others,
        }

    declared = []
    for place, (name, spec) in enumerate(sorted(specs.items())):
        declared.append(Declared(name, fields(name, produce, ENTRYPOINT, TAG, domain_tag(name)), schedules.get(name)))
        if (
            spec.trigger or spec.freshness or spec.promotion.mode == "review"
        ):  # not with the domain's tag, by which its runs are found
            cron = WATCHED_AT[spec.trigger.every if spec.trigger else "1d"]
            when = Schedule(shifted(cron, place * STAGGER_MINUTES), "UTC", True)
            declared.append(Declared(name, fields(name, watch, WATCH[1], TAG, f"watch:{name}"), when, WATCH[0]))
        if spec.promotion.mode == "review":
            tags = (REVIEW_TAG, review_tag(name))
            others = {
                "parameters": {"domain": _reference(found[name])},
                "concurrency_options": {"collision_strategy": ConcurrencyLimitStrategy.ENQUEUE.value},
            }
            declared.append(Declared(name, fields(name, ask, REVIEW[1], *tags, **others), None, REVIEW[0]))
    return declared


def _found() -> dict[str, DomainSpec]:
    """Specs of all domains that can be called by name: starts are staggered among all, whichever are deployed now."""
    specs = {}
    for folder in domain_folders().values():
        with suppress(AlterError):  # a wrong one is told where it is asked for
            spec = load_domain(folder)
            specs[spec.name] = spec
    return specs


def own_schedule(schedule: Schedule) -> DeploymentScheduleCreate:
    """The schedule that a deployment has from its spec."""
    return DeploymentScheduleCreate(schedule=schedule.of_prefect(), active=schedule.active, slug=SLUG)


def environment(pool_type: str = "process") -> dict[str, str]:
    """What a flow run's process finds in its environment: how often to send heartbeats, and the workspace.

    A container has a workspace of its own: its image or its work pool names it.
    """
    heartbeat = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
    return {**heartbeat, "ALTER_HOME": str(Workspace.default().home)} if pool_type == "process" else heartbeat


def prefect_yaml(domains: Sequence[str], work_pool: str, data_root: Path | None = None) -> str:
    """The same deployments as a prefect.yaml, for teams that use `prefect deploy --all`."""
    deployments = []
    # Of another pool it is not known here whether its flow runs see this machine's folders.
    pool_type = "process" if work_pool == DEFAULT_POOL else "unknown"
    for one in declare(domains, work_pool, data_root, pool_type):
        fields = one.fields
        schedules = []
        if one.schedule:
            when = {"cron": one.schedule.cron, "timezone": one.schedule.timezone, "active": one.schedule.active}
            schedules = [{"slug": SLUG, **when}]
        deployments.append(
            {
                "name": one.name,
                **{key: fields[key] for key in ("description", "entrypoint", "tags", "parameters")},
                "enforce_parameter_schema": True,
                "concurrency_limit": {"limit": fields["concurrency_limit"], **fields["concurrency_options"]},
                "schedules": schedules,
                "work_pool": {"name": work_pool, "job_variables": fields["job_variables"]},
            }
        )
    head = (
        "# Written by `alter deploy --yaml`; change the domain specs and write it again.\n"
        "# `prefect deploy --all` makes these deployments, but neither stops a schedule that left a spec nor makes\n"
        "# the automation that ends silent runs: `alter deploy` does both.\n"
    )
    return head + yaml.safe_dump(
        {"name": "alter-factory", "pull": [], "deployments": deployments}, sort_keys=False, width=120
    )


def _reference(file: Path) -> str:
    """How a flow run finds the spec again, from any folder."""
    shipped = Path(str(files("domains"))).resolve()
    if file.resolve().parent.parent == shipped and "site-packages" in shipped.parts:
        return file.parent.name
    return str(file)
