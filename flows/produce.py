"""The flow that produces one domain: data in, one registered version out, champion or candidate with a reason."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import flow
from prefect.runtime import flow_run

from alter_core.errors import AlterError, WorkspaceError
from alter_core.spec import load_domain
from flows import publish, steps
from flows.abandoned import close_abandoned
from flows.notify import notify
from flows.plan import Plan, find_domain

Outcome = dict[str, Any]


def _run_name() -> str:
    """The domain's own name, whatever the parameter is, and when it was started."""
    given = str(flow_run.get_parameters().get("domain"))
    with suppress(AlterError):  # the run itself will say what is wrong
        given = load_domain(find_domain(given)).name
    return f"{given} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="produce",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,
    on_failure=[notify],
    on_crashed=[notify],
    on_cancellation=[notify],
)
def produce(domain: str, data_root: str | None = None, force: bool = False) -> Outcome:
    """Produce `domain` (a name, a folder or a domain.yaml) and register the model.

    data_root: folder that relative source paths may also lie under. force: run even when nothing has changed.
    Raises AlterError subclasses for wrong input and failed jobs; nothing is registered then.
    """
    begin = time.monotonic()
    plan = Plan.read(domain, Path(data_root) if data_root else None)
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.lock_file, timeout=0), _full_disk_explained(plan):
            close_abandoned(plan)
            outcome = _produce(plan, force)
    except Timeout:
        raise WorkspaceError(
            f"{plan.spec.name} is being produced by another process in this workspace ({plan.workspace.home}); "
            "wait for it, or set ALTER_HOME to another folder"
        ) from None
    return {**outcome, "domain": plan.spec.name, "seconds": time.monotonic() - begin}


@contextmanager
def _full_disk_explained(plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise WorkspaceError(
            f"the disk is full while {plan.spec.name} was produced: {error}. Free some space (`alter gc` removes what "
            f"can go), or set ALTER_HOME to a larger disk than that of {plan.workspace.home}, then run again"
        ) from error


def _produce(plan: Plan, force: bool) -> Outcome:
    backbone = steps.prepare_backbone(plan)
    data = steps.prepare_data(plan, backbone)
    run_key = plan.run_key(data["digest"], backbone["digest"])
    champion = publish.champion(plan)
    if champion and champion["tags"].get("run_key") == run_key and not force:
        steps.say(
            f"nothing has changed: spec, data, backbone and code are those of {plan.spec.name} version "
            f"{champion['version']}, the champion (run key {run_key}); nothing was trained"
        )
        return {"status": "unchanged", "version": champion["version"], "run_key": run_key}

    with publish.mlflow_run(plan, run_key, data, backbone, flow_run.get_id()) as run:
        stages: dict[str, steps.Facts] = {}
        bundle = None
        for name, _ in plan.stages():
            stages[name] = steps.train(plan, name, data, backbone, bundle, partial(run.log_training, name))
            bundle = stages[name]["bundle"]
        bundles: dict[str, str | None] = {
            "zero_shot": None,
            **{name: facts["bundle"] for name, facts in stages.items()},
        }
        if champion:
            bundles["champion"] = publish.champion_bundle(plan)
        paths = steps.evaluate(plan, data, backbone, bundles)
        scorecards = publish.read_scorecards(paths)
        decision = publish.decide(plan, scorecards)
        version = publish.register(plan, run, data, backbone, stages, scorecards, decision, champion)
        publish.verify(plan, version, scorecards[name]["samples"])
        promoted = publish.promote(plan, version, decision, champion)
    return {
        "status": "champion" if promoted else "candidate",
        "version": version,
        "run_key": run_key,
        "reason": decision["reason"],
        "scorecards": paths,
        "costs": {name: facts["cost"] for name, facts in stages.items()},
        "mlflow_run": run.id,
    }
