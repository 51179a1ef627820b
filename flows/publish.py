"""What a production leaves in MLflow: its run, the registered version, the decision. Calls the registry only."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from alter_core.energy import Meter
from alter_core.mta.manifest import copy_with
from alter_core.process import Row
from flows import approval, artifacts, news
from flows.production import earlier, review
from flows.production.candidate import Candidate
from flows.production.code_wheel import build_wheel, serving_requirements
from flows.production.plan import Plan, code_of
from flows.production.production import Production, Quality
from flows.production.stores import Stores, write_card
from flows.steps import io_retries, log_line
from registry.calibration import calibration_metrics
from registry.card import render_card
from registry.errors import AliasConflict, RegistryError
from registry.facts import CardFacts
from registry.models import REVIEW, STARTED_FROM
from registry.promotion import Decision
from registry.scorecard import DoubtfulRow, Sample, doubted_rows
from registry.spending import energy_tag
from registry.tracking import WORKSPACE, Tracker
from registry.verification import Verify, fresh_process
from registry.versions import Version

Verdict = Literal["champion", "candidate", "waiting", "overtaken"]


def champion(production: Production) -> Version | None:
    """The version that users load today; None before the first."""
    return production.stores.models.champion(production.plan.spec.name)


def put_aside(plan: Plan, stores: Stores) -> None:
    """End the wait of a version that nobody decided on in time."""
    if waited := review.put_aside(plan, stores.models):
        log_line(news.tell_in_vain(waited))
        approval.show(stores.models, plan.spec.name)


def already_made(production: Production, now: Version | None) -> Version | None:
    """The version that this production would make again, so that there is nothing to do; None: there is something.

    now: the champion. A production of it that was killed just before its end is brought there.
    """
    if made := earlier.settled(production):
        if earlier.stands(made, now, production.plan.spec.promotion.mode == "review"):
            log_line(earlier.said_unchanged(production, made))
            return made
        log_line(
            f"version {made['version']} was made of the same things, and the champion has changed since: what is "
            "unchanged is reused, and it is decided again"
        )
    if now and earlier.nothing_to_refresh(production, now):
        log_line(f"no row has changed since version {now['version']} learnt: there is nothing to refresh")
        return now
    if now and earlier.is_unsettled(now, production.run_key):
        log_line(f"version {now['version']} was promoted by a run that was killed then: writing its card")
        settle(production, now["version"])
        return now
    return None


@dataclass(frozen=True)
class Run:
    """The open MLflow run of this production."""

    id: str
    tracker: Tracker

    def log_training(self, stage: str, rows: Sequence[Row]) -> None:
        """Metrics per step, named after their stage."""
        kept = ("loss", "lr", "rows_per_second")
        self.tracker.log_metrics(
            self.id,
            [{"step": row["step"], "metrics": {f"{stage}.{k}": row[k] for k in kept if k in row}} for row in rows],
        )


@contextmanager
def mlflow_run(production: Production, quality: Quality, flow_run_id: str | None) -> Iterator[Run]:
    """The MLflow run of a production, with its data and spec; closed at the end."""
    plan, rows, tracker = production.plan, production.rows, production.stores.tracker
    name, run_key = plan.spec.name, production.run_key
    tags = {
        WORKSPACE: plan.workspace.identity,
        "domain": name,
        "run_key": run_key,
        "data_digest": rows.digest,
        "backbone": production.backbone.source,
        "code": code_of("run"),
        "why": str(flow_run.get_parameters().get("why") or ""),
        "flow_run": (flow_run_id and (url_for("flow-run", obj_id=flow_run_id) or flow_run_id)) or "",
    }
    run = Run(tracker.start_run(f"{name} {run_key}", plan.spec.model_dump(mode="json"), tags), tracker)
    with ended(run), measured(run):
        profile = {task: found["rows"] for task, found in rows.tasks.items()}
        tracker.log_dataset(run.id, name, rows.digest, profile, str(rows.path))
        tracker.log_file(run.id, plan.file, "spec")
        tracker.log_file(run.id, quality.folder, "quality")
        yield run


@contextmanager
def measured(run: Run) -> Iterator[None]:
    """The run tells, however it ends, what the machine used in the block."""
    with Meter().watched() as meter:
        try:
            yield
        finally:
            with suppress(RegistryError):  # it would hide why the run ended
                run.tracker.set_tags(run.id, energy_tag(meter.joules(), meter.why))


@contextmanager
def ended(run: Run) -> Iterator[None]:
    """The run is FINISHED, FAILED or KILLED at the end, whatever happens in the block."""
    try:
        yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | TerminationSignal | SystemExit)
        with suppress(RegistryError):  # it would hide why the run ended; the next one sweeps up
            run.tracker.end_run(run.id, "KILLED" if killed else "FAILED")
        raise
    run.tracker.end_run(run.id, "FINISHED")


@task(name="register", cache_policy=NO_CACHE, **io_retries)
def register(candidate: Candidate, run: Run) -> int:
    """Register the last stage's bundle with its card, undecided as yet; the same run key is registered once. Gives the
    version."""
    production, own, facts = candidate.production, candidate.own, candidate.card_facts()
    spec = production.plan.spec
    metrics = {
        f"test.{name}.{metric}": value["value"]
        for name, scores in own["tasks"].items()
        for metric, value in scores["metrics"].items()
    }
    sample = own.get("samples", ())[0]
    with _bundle_of(candidate) as bundle:
        version = production.stores.models.register(
            spec.name,
            run.id,
            bundle,
            run_key=production.run_key,
            card=render_card(facts),
            code_wheel=build_wheel(production.plan.workspace.home / "wheels"),
            tags={**candidate.tags(), STARTED_FROM: candidate.started_from or ""},
            example={"task": sample["task"], "input": sample["input"]},
            requirements=serving_requirements(),
            metrics={**metrics, **calibration_metrics(own), "macro": own["macro"]["value"]},
            description=spec.description,
            facts=facts,
        )
    _log_evidence(candidate, facts, run)
    return version


@contextmanager
def _bundle_of(candidate: Candidate) -> Iterator[Path]:
    """The last stage's bundle as it is registered: with temperatures and bounds, where there are any."""
    if not (told := candidate.calibration):
        yield candidate.last.bundle
        return
    with TemporaryDirectory(prefix="registered-", dir=candidate.last.folder) as folder:
        copy_with(candidate.last.bundle, Path(folder) / "bundle", told)
        yield Path(folder) / "bundle"


def _log_evidence(candidate: Candidate, facts: CardFacts, run: Run) -> None:
    """What an analyst looks for beside the card: samples as a table, figures, what each stage did."""
    from registry.figures import figures_of  # matplotlib takes a second to import

    run.tracker.log_table(run.id, _columns(candidate.own.get("samples", ())), "samples.json")
    for name, found in doubted_rows(candidate.own).items():
        if found["rows"]:
            run.tracker.log_table(run.id, _columns(found["rows"]), f"doubtful/{name}.json")
    for name, figure in figures_of(facts).items():
        run.tracker.log_figure(run.id, figure, f"figures/{name}")
    if opening := candidate.opening:
        scores = {f"validation_macro.{name}": value for name, value in opening.items()}
        run.tracker.log_metrics(run.id, [{"step": 0, "metrics": scores}])
    for name, stage in candidate.stages.items():
        run.tracker.log_file(run.id, stage.folder / "result.json", name)


def verification(production: Production) -> AbstractContextManager[Verify]:
    """A fresh process for `verify`, which imports while its version is registered."""
    return fresh_process(production.stores.uri, ["alter_core.inference.predict"])


@task(name="verify", cache_policy=NO_CACHE)
def verify(candidate: Candidate, version: int, repeats: Verify) -> dict[str, float]:
    """Load the version by its URI in a fresh process and repeat the recorded samples. Raises VerificationError."""
    found = repeats(candidate.production.plan.spec.name, version, candidate.own.get("samples", ()))
    log_line(f"version {version} was loaded in a fresh process and repeated {found['rows']:.0f} recorded predictions")
    return found


@task(name="promote", cache_policy=NO_CACHE, **io_retries)
def promote(candidate: Candidate, version: int, decision: Decision) -> Verdict:
    """Move the alias `champion` when the rule holds, or put the version up for review where the spec asks for it;
    otherwise it waits as `challenger`.

    Overtaken, and nothing moved, when the champion is no longer the one that the candidate was compared with.
    """
    production, before = candidate.production, candidate.champion
    store, name = production.stores.models, production.plan.spec.name
    if before and before["version"] == version:  # made again to the bit: what was decided of it stands
        log_line(f"{name} version {version} is the champion already")
        return "champion"
    rule, against = production.plan.spec.promotion, before["version"] if before else None
    verdict: Verdict = "candidate" if not decision.promote else "waiting" if rule.mode == "review" else "champion"
    tags = store.get(name, version)["tags"]
    # First: a production that is killed from here on can be brought to its end by what stands there.
    store.tag(
        name,
        version,
        {
            # What a person decided of this version before was against another champion.
            **dict.fromkeys(review.OF_PERSONS & tags.keys(), ""),
            "champion_before": "none" if against is None else against,
            "decision": {"candidate": "keep", "waiting": "review", "champion": "promote"}[verdict],
            "decision_reason": decision.reason,
            **(review.asked(rule, tags, against) if rule.mode == "review" else {}),
        },
    )
    waited = store.alias(name, REVIEW)
    try:
        if verdict == "candidate":
            store.set_challenger(name, version)
        elif verdict == "waiting":
            store.set_review(name, version, against)
        else:
            store.set_champion(name, version, against)
    except AliasConflict as conflict:
        log_line(f"{conflict}: comparing with the new champion")
        return "overtaken"
    log_line(f"{name} version {version}: {decision.reason}")
    if waited and verdict != "candidate" and waited["version"] != version:
        replaced = f"it waited for approval, and is replaced by version {version}"
        news.tell("refused", name, replaced, waited["version"])
        log_line(f"{name} version {waited['version']}: {replaced}")
        with suppress(RegistryError):  # its files may be gone; its tags tell it
            write_card(store, name, waited["version"])
    return verdict


@task(name="settle", cache_policy=NO_CACHE, **io_retries)
def settle(production: Production, version: int, facts: CardFacts | None = None) -> None:
    """The last step of a production: the card says what was decided. facts: unset, those that were registered."""
    name, store = production.plan.spec.name, production.stores.models
    # A champion that was made again to the bit was held against itself: the registered facts tell of the one before.
    own = facts if facts and facts.get("champion_version") != version else None
    card = write_card(store, name, version, own)
    create_markdown_artifact(card, key=artifacts.key(production.plan, "card"))
    news.tell_decided(store.get(name, version))
    if production.plan.spec.promotion.mode == "review":
        approval.show(store, name)
    store.tag(name, version, {earlier.SETTLED: "yes"})


def _columns(rows: Sequence[Sample | DoubtfulRow]) -> dict[str, list[object]]:
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {name: [dict(row).get(name) for row in rows] for name in names}
