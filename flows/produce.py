"""The flow that produces one domain: data in, one registered version out, champion or candidate with a reason."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import flow
from prefect.context import TagsContext
from prefect.runtime import flow_run

from alter_core.collector import collect_rarely
from alter_core.errors import AlterError, QualityBlocked, WorkspaceError
from alter_core.spec.load import load_domain
from flows import artifacts, news, publish, steps
from flows.abandoned import close_abandoned
from flows.notify import notify
from flows.production.candidate import Candidate
from flows.production.earlier import bundle_to_compare, first_start
from flows.production.forecast import need_disk
from flows.production.outcome import Outcome
from flows.production.plan import Plan, find_domain
from flows.production.production import Production
from flows.production.stage import Stage, Start
from flows.production.stores import Stores
from registry.versions import Version


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
    domain: str,
    data_root: str | None = None,
    force: bool = False,
    processes: int = 1,
    added: str | None = None,
    why: str | None = None,
    refresh: bool = False,
) -> Outcome:
    """Produce `domain` (a name, a folder or a domain.yaml) and register the model.

    data_root: folder that relative source paths may also lie under. force: run even when nothing has changed.
    processes: of training; one per GPU where there are several. added: train this task alone, onto the champion, whose
    other tasks stay as they are to the bit. refresh: train the champion's tasks whose rows have changed, and no others.
    why: what started it, where no person did.
    Raises AlterError subclasses for wrong input and failed jobs; nothing is registered then.
    """
    collect_rarely()  # for a process that Prefect started
    begin = time.monotonic()
    plan = Plan.read(domain, Path(data_root) if data_root else None, added, refresh)
    if why:
        steps.log_line(f"started because {why}")
    # Steps have no tags, as in a deployed run: Prefect asks its server before each step what limits its tags have, and
    # where that finds another write in the SQLite database it waits for 2 s.
    with TagsContext(), _alone(plan), _full_disk_explained(plan):
        stores = Stores(plan.workspace, plan.spec.name)
        close_abandoned(plan, stores.tracker)
        publish.put_aside(plan, stores)
        outcome = make(Production(plan, stores, steps.prepare_backbone(plan), steps.ingest(plan)), force, processes)
    return replace(outcome, seconds=time.monotonic() - begin)


def make(production: Production, force: bool = False, processes: int = 1) -> Outcome:
    """The production from its rows to its end, step by step. Everything that is unchanged is reused."""
    name, key = production.plan.spec.name, production.run_key
    champion = publish.champion(production)
    if not force and (made := publish.already_made(production, champion)):
        return Outcome(name, "unchanged", made["version"], key, aliases=tuple(made["aliases"]))
    try:
        quality = steps.validate(production, champion)
    except QualityBlocked as error:
        news.tell("blocked", name, str(error), by_block=False)
        raise
    need_disk(production)
    with publish.mlflow_run(production, quality, flow_run.get_id()) as run:
        start, why = first_start(production, champion)
        if why:
            steps.log_line(why)
        stages = _train(production, start, run, processes)
        candidate = Candidate(production, quality, stages, start.version if start else None, run.id)
        candidate = _scored(candidate, champion)
        if start and production.plan.spec.promotion.by == "task" and (behind := candidate.behind):
            stage = steps.take_back(production, candidate.last, start, behind)
            candidate = _scored(replace(candidate, stages={"refresh": stage}), champion)
        decision = candidate.decide()
        with publish.verification(production) as repeats:
            version = publish.register(candidate, run)
            publish.verify(candidate, version, repeats)
        while (verdict := publish.promote(candidate, version, decision)) == "overtaken":
            candidate = _scored(candidate, publish.champion(production))
            decision = candidate.decide()
        publish.settle(production, version, candidate.card_facts())
        artifacts.links(production, run.id, version)
    return Outcome(
        name,
        verdict,
        version,
        key,
        reason=decision.reason,
        scorecards=candidate.scorecards,
        costs={name: stage.cost for name, stage in stages.items()},
        mlflow_run=run.id,
    )


def _train(production: Production, start: Start | None, run: publish.Run, processes: int) -> dict[str, Stage]:
    """Every stage in order, each from the bundle of the one before it."""
    stages: dict[str, Stage] = {}
    for name in production.plan.stages(start.refreshed if start else ()):
        stages[name] = steps.train(production, name, start, partial(run.log_training, name), processes)
        start = stages[name].after()
    return stages


def _scored(candidate: Candidate, champion: Version | None) -> Candidate:
    """The candidate with scorecards of all that is compared, `champion` among them."""
    production = candidate.production
    baselines = production.plan.spec.evaluation.baselines
    bundles: dict[str, str | None] = {one: None for one in ("zero_shot", "bag_of_words") if one in baselines}
    bundles |= {name: str(stage.bundle) for name, stage in candidate.stages.items()}
    if there := bundle_to_compare(production, champion):
        bundles["champion"] = there
    return replace(
        candidate, champion=champion, scorecards=steps.evaluate(production, bundles, list(candidate.stages)[-1])
    )


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Hold the domain's lock in its workspace. Raises WorkspaceError where another process has it."""
    plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.lock_file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise WorkspaceError(
            f"{plan.spec.name} is being produced by another process in this workspace ({plan.workspace.home}); "
            "wait for it, or set ALTER_HOME to another folder"
        ) from None
    try:
        plan.open_mark.touch()
        yield
        plan.open_mark.unlink(missing_ok=True)
    finally:
        lock.release()


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
