"""The flow that produces one domain: data in, one registered version out, champion or candidate with a reason."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import flow
from prefect.runtime import flow_run

from alter_core.errors import WorkspaceError
from flows import publish, steps
from flows.plan import Plan

Outcome = dict[str, Any]


@flow(name="produce", flow_run_name="{domain}", persist_result=False, validate_parameters=False)
def produce(domain: str, data_root: str | None = None, force: bool = False) -> Outcome:
    """Produce `domain` (a name, a folder or a domain.yaml) and register the model.

    data_root: folder that relative source paths may also lie under. force: run even when nothing has changed.
    Raises AlterError subclasses for wrong input and failed jobs; nothing is registered then.
    """
    begin = time.monotonic()
    plan = Plan.read(domain, Path(data_root) if data_root else None)
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.lock_file, timeout=0):
            outcome = _produce(plan, force)
    except Timeout:
        raise WorkspaceError(
            f"{plan.spec.name} is being produced by another process in this workspace ({plan.workspace.home}); "
            "wait for it, or set ALTER_HOME to another folder"
        ) from None
    return {**outcome, "domain": plan.spec.name, "seconds": time.monotonic() - begin}


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
        stages = {}
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
