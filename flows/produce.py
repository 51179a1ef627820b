"""The flow that produces one domain: data in, one registered version out, champion or candidate with a reason."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import flow
from prefect.runtime import flow_run

from alter_core.errors import AlterError, WorkspaceError
from alter_core.spec.load import load_domain
from flows import artifacts, publish, steps
from flows.abandoned import close_abandoned
from flows.notify import notify
from flows.production.candidate import Candidate, read_scorecards
from flows.production.plan import Plan, find_domain
from registry.errors import AliasConflict
from registry.versions import Version

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
def produce(
    domain: str, data_root: str | None = None, force: bool = False, processes: int = 1, added: str | None = None
) -> Outcome:
    """Produce `domain` (a name, a folder or a domain.yaml) and register the model.

    data_root: folder that relative source paths may also lie under. force: run even when nothing has changed.
    processes: of training; one per GPU where there are several. added: train this task alone, onto the champion, whose
    other tasks stay as they are to the bit.
    Raises AlterError subclasses for wrong input and failed jobs; nothing is registered then.
    """
    begin = time.monotonic()
    plan = Plan.read(domain, Path(data_root) if data_root else None, added)
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.lock_file, timeout=0), _full_disk_explained(plan):
            close_abandoned(plan)
            outcome = _produce(plan, force, processes)
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
            f"the disk is full: {error.filename or plan.workspace.home} could not be written while {plan.spec.name} "
            "was produced. Free some space (`alter gc` shows what may go), or set ALTER_HOME to a larger disk, then "
            "run again"
        ) from error


def _produce(plan: Plan, force: bool, processes: int) -> Outcome:
    backbone = steps.prepare_backbone(plan)
    data = steps.ingest(plan)
    run_key = plan.run_key(data["digest"], backbone["digest"])
    champion = publish.champion(plan)
    number = champion["version"] if champion else None
    made = None if force else publish.settled(plan, run_key)
    if made and publish.stands(made, champion):
        steps.say(
            f"nothing has changed: spec, data, backbone and code are those of {plan.spec.name} version "
            f"{made['version']} (run key {run_key}); nothing was trained"
        )
        return {"status": "unchanged", "version": made["version"], "aliases": made["aliases"], "run_key": run_key}
    if made:
        steps.say(
            f"version {made['version']} was made of the same things, and the champion has changed since: what is "
            "unchanged is reused, and it is decided again"
        )
    if champion and not force and publish.is_unsettled(champion, run_key):
        steps.say(f"version {number} was promoted by a run that was killed then: writing its card")
        publish.settle(plan, champion["version"])
        return {"status": "unchanged", "version": number, "aliases": champion["aliases"], "run_key": run_key}

    quality = steps.validate(plan, data, backbone, number, publish.champion_profile(plan, champion))
    data = {**data, "quality": quality}
    with publish.mlflow_run(plan, run_key, data, backbone, flow_run.get_id()) as run:
        stages: dict[str, steps.Facts] = {}
        first = start = publish.first_start(plan, champion, data, backbone)
        for name in plan.stages():
            stages[name] = steps.train(plan, name, data, backbone, start, partial(run.log_training, name), processes)
            start = steps.Start.at(Path(stages[name]["bundle"]))
        scorecards, paths = _scores(plan, data, backbone, stages, champion)
        started_from = first.version if first else None
        candidate = Candidate(plan, run_key, data, backbone, stages, scorecards, champion, started_from)
        decision = candidate.decide()
        facts = candidate.card_facts(run.id)
        version = publish.register(candidate, facts, run)
        publish.verify(plan, version, candidate.own["samples"])
        try:
            promoted = publish.promote(candidate, version, decision)
        except AliasConflict as conflict:
            steps.say(f"{conflict}: comparing with the new champion")
            champion = publish.champion(plan)
            scorecards, paths = _scores(plan, data, backbone, stages, champion)
            candidate = replace(candidate, scorecards=scorecards, champion=champion)
            decision = candidate.decide()
            promoted = publish.promote(candidate, version, decision)
            facts = {**candidate.card_facts(run.id), "created": facts["created"]}
        publish.settle(plan, version, facts)
        artifacts.links(plan, run.tracker.tracking_uri, run.tracker.experiment_id, run.id, version)
    return {
        "status": "champion" if promoted else "candidate",
        "version": version,
        "run_key": run_key,
        "reason": decision["reason"],
        "scorecards": paths,
        "costs": {name: facts["cost"] for name, facts in stages.items()},
        "mlflow_run": run.id,
    }


def _scores(
    plan: Plan, data: steps.Facts, backbone: steps.Facts, stages: dict[str, steps.Facts], champion: Version | None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Scorecards of all that is compared, and their paths."""
    bundles: dict[str, str | None] = {"zero_shot": None} if "zero_shot" in plan.spec.evaluation.baselines else {}
    bundles |= {name: facts["bundle"] for name, facts in stages.items()}
    if champion and (bundle := publish.bundle_to_compare(plan, champion["version"])):
        bundles["champion"] = bundle
    paths = steps.evaluate(plan, data, backbone, bundles)
    scorecards = read_scorecards(paths)
    artifacts.score_table(plan, scorecards)
    return scorecards, paths
