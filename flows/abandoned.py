"""What killed runs of a domain left open: a job that works on, MLflow runs, and flow runs that still say Running.

Only for the one who holds the domain's lock in a workspace: then no other flow of the domain lives there.
"""

from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from alter_core.process import end_leftovers
from flows.notify import notify
from flows.production.orphans import stop_orphaned_servers
from flows.production.plan import Plan
from flows.steps import log_line
from registry.tracking import Tracker

OPEN = [StateType.RUNNING, StateType.CANCELLING]


def workspace_tag(plan: Plan) -> str:
    """Which workspace a flow run works in: another one may produce the same domain at the same time."""
    return f"workspace:{plan.workspace.identity}"


def close_abandoned(plan: Plan, tracker: Tracker) -> None:
    """Stop what still works, mark MLflow runs KILLED and flow runs Crashed, which people are told of, and tag this flow
    run as ours.
    """
    if jobs := end_leftovers(plan.lock_file.parent, beside=plan.run_folder("ablation")):
        log_line(f"stopped {jobs} processes of an earlier run of {plan.spec.name} that was killed")
    for line in stop_orphaned_servers():
        log_line(line)
    if runs := tracker.sweep(plan.workspace.identity):
        log_line(f"marked MLflow runs of killed processes as KILLED: {', '.join(runs)}")
    own = flow_run.get_id()
    with get_client(sync_client=True) as client:
        mine = client.read_flow_run(UUID(own)) if own else None
        if mine:
            client.update_flow_run(mine.id, tags=sorted({*mine.tags, workspace_tag(plan)}))
        silent = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[workspace_tag(plan)]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)),
            )
        )
        for run in silent:
            if str(run.id) != own and run.name.startswith(f"{plan.spec.name} "):
                crashed: State[Any] = Crashed(
                    message="its process ended without a word; this domain's next run goes on from there"
                )
                client.set_flow_run_state(run.id, crashed, force=True)
                notify(None, run, crashed)  # its own hook went with its process
                log_line(f"marked the flow run {run.name!r} as Crashed: its process is gone")
