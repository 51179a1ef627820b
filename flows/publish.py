"""What a production leaves in MLflow: its run, the registered version, the decision. Calls the registry only."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.utilities.urls import url_for

from alter_core.errors import AlterError
from alter_core.mta import read_manifest
from alter_core.process import Row
from flows import artifacts
from flows.production.candidate import Candidate, Facts, another_split
from flows.production.code_wheel import build_wheel
from flows.production.plan import Plan, code_of
from flows.production.stores import model_store, open_tracker, tracking_uri, write_card
from flows.steps import Start, io_retries, say
from registry.card import CardFacts, render_card
from registry.errors import RegistryError, RegistryInputError
from registry.models import CHAMPION, STARTED_FROM
from registry.tracking import WORKSPACE, Tracker
from registry.verification import verify_in_fresh_process
from registry.versions import Version

SETTLED = "settled"  # tag of a version whose production went to its end: a run that was killed before goes on

# What a served model needs to answer; the exact versions that it was trained with are pinned.
SERVING_PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "pandas",
    "pydantic",
    "PyYAML",
    "jaxtyping",
    "mlflow",
    "fastapi",
    "sentencepiece",
    "rouge-score",
    "scikit-learn",
)


def settled(plan: Plan, run_key: str) -> Version | None:
    """The newest version that was made of the same things, if it was decided upon, whatever became of it since."""
    with suppress(RegistryInputError):  # of a domain that has no version yet
        for row in model_store(plan.workspace).versions(plan.spec.name):
            if row["tags"].get("run_key") == run_key:  # several where a run was made again and ended otherwise
                return row if SETTLED in row["tags"] else None
    return None


def stands(version: Version, champion: Version | None) -> bool:
    """Whether what was decided of a settled version holds today, so that there is nothing to do.

    It does not where the champion is gone, or is one that this version was never compared with: a spec or its rows may
    have been changed, produced, and changed back.
    """
    if champion is None:
        return False
    tags = version["tags"]
    return (
        version["version"] == champion["version"]
        or tags.get("rolled_back", "") > tags.get("promoted", "")  # by a person, who knows why
        or bool(champion["tags"].get("promoted_by"))  # as here
        or (tags.get("decision") == "keep" and tags.get("champion_before") == str(champion["version"]))
    )


def is_unsettled(champion: Version, run_key: str) -> bool:
    """Whether the champion was made of the same things, and its production was killed just before its end."""
    tags = champion["tags"]
    return tags.get("run_key") == run_key and "decision_reason" in tags and SETTLED not in tags


def champion_profile(plan: Plan, champion: Version | None) -> Facts | None:
    """Task -> profile of the rows that the champion was trained on; None where it has none."""
    if champion is None:
        return None
    facts = model_store(plan.workspace).facts(plan.spec.name, champion["version"], plan.workspace.downloads)
    profile: Facts | None = facts.get("profile")
    return profile


def first_start(plan: Plan, champion: Version | None, data: Facts, backbone: Facts) -> Start | None:
    """The registered bundle that training goes on from; None: it begins at the backbone, and the log says why.

    A champion that learnt from just these rows is not taught them again: training starts where the champion's did, so
    that what is unchanged since is reused. Raises AlterError when a task is to be added and no champion can take it.
    """
    name, store = plan.spec.name, model_store(plan.workspace)
    if not plan.added and (plan.spec.warm_start != "champion" or champion is None):
        return None
    if champion is None:
        raise AlterError(f"{name} has no champion that a task could be added to: `alter run {name}` trains all of them")
    if not plan.added and champion["tags"].get("data_digest") == data["digest"]:
        if not (before := champion["tags"].get(STARTED_FROM)):
            return None
        try:
            champion = store.get(name, before)
        except RegistryInputError:
            say(f"no warm start: version {before}, which the champion started from, is not there any more")
            return None
    number = champion["version"]
    folder = store.bundle_path(name, number, plan.workspace.downloads)
    facts = store.facts(name, number, plan.workspace.downloads)
    reasons = _differences(plan, facts, read_manifest(folder), backbone)
    if another_split(plan, champion):
        reasons.append("split, so that it may have learnt from rows that are for the test now")
    if reasons:
        if plan.added:
            raise AlterError(
                f"{plan.added} cannot be added to {name} version {number}, which has another {' and '.join(reasons)}: "
                f"`alter run {name}` trains all tasks"
            )
        say(f"no warm start from version {number}, which has another {' and '.join(reasons)}")
        return None
    say(f"training starts from version {number}")
    return Start.at(folder, number)


def _differences(plan: Plan, facts: Facts, manifest: Facts, backbone: Facts) -> list[str]:
    """What keeps training from going on from a registered bundle."""
    wanted = [task for task in plan.spec.task_names if task != plan.added]
    mta = plan.spec.mta.model_dump(mode="json")
    mta["homes"].pop(plan.added, None)
    differs = {
        "backbone": facts["backbone"]["digest"] != backbone["digest"],
        f"tasks ({', '.join(manifest['tasks'])}; needed: {', '.join(wanted)})": set(manifest["tasks"]) != set(wanted),
        "mta": manifest["config"] != mta,
    }
    return [what for what, wrong in differs.items() if wrong]


def sweep(plan: Plan) -> list[str]:
    """Close the MLflow runs of this domain and workspace that killed processes left, under its lock; their ids."""
    return open_tracker(plan).sweep(plan.workspace.identity)


def champion(plan: Plan) -> Version | None:
    """The version that users load today; None before the first."""
    return model_store(plan.workspace).alias(plan.spec.name, CHAMPION)


def bundle_to_compare(plan: Plan, version: int) -> str | None:
    """Local folder of a version's bundle; None where it has no task of the spec, so that nothing can be compared."""
    folder = model_store(plan.workspace).bundle_path(plan.spec.name, version, plan.workspace.downloads)
    return str(folder) if set(read_manifest(folder)["tasks"]) & set(plan.spec.task_names) else None


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
def mlflow_run(plan: Plan, run_key: str, data: Facts, backbone: Facts, flow_run_id: str | None) -> Iterator[Run]:
    """The MLflow run of a production, with its data and spec; closed at the end."""
    tracker = open_tracker(plan)
    spec = plan.spec.model_dump(mode="json")
    tags = {
        WORKSPACE: plan.workspace.identity,
        "domain": plan.spec.name,
        "run_key": run_key,
        "data_digest": data["digest"],
        "backbone": backbone["source"],
        "code": code_of("run"),
        "flow_run": (flow_run_id and (url_for("flow-run", obj_id=flow_run_id) or flow_run_id)) or "",
    }
    run = Run(tracker.start_run(f"{plan.spec.name} {run_key}", spec, tags), tracker)
    with ended(run):
        profile = {name: task["rows"] for name, task in data["tasks"].items()}
        tracker.log_dataset(run.id, plan.spec.name, data["digest"], profile, data["path"])
        tracker.log_file(run.id, plan.file, "spec")
        tracker.log_file(run.id, Path(data["quality"]["folder"]), "quality")
        yield run


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
def register(candidate: Candidate, facts: CardFacts, run: Run) -> int:
    """Register the last stage's bundle with its card, undecided as yet; the same run key is registered once. Gives the
    version."""
    plan, own = candidate.plan, candidate.own
    metrics = {
        f"test.{name}.{metric}": value["value"]
        for name, scores in own["tasks"].items()
        for metric, value in scores["metrics"].items()
    }
    sample = own["samples"][0]
    version = model_store(plan.workspace).register(
        plan.spec.name,
        run.id,
        Path(candidate.last["bundle"]),
        run_key=candidate.run_key,
        card=render_card(facts),
        code_wheel=build_wheel(plan.workspace.home / "wheels"),
        tags={**candidate.tags(), STARTED_FROM: candidate.started_from or ""},
        example={"task": sample["task"], "input": sample["input"]},
        requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in SERVING_PACKAGES],
        metrics={**metrics, "macro": own["macro"]["value"]},
        description=plan.spec.description,
        facts=facts,
    )
    _log_evidence(candidate, facts, run)
    return version


def _log_evidence(candidate: Candidate, facts: CardFacts, run: Run) -> None:
    """What an analyst looks for beside the card: samples as a table, figures, what each stage did."""
    from registry.figures import figures_of  # matplotlib takes a second to import

    run.tracker.log_table(run.id, _columns(candidate.own["samples"]), "samples.json")
    for name, figure in figures_of(facts).items():
        run.tracker.log_figure(run.id, figure, f"figures/{name}")
    if opening := candidate.opening:
        scores = {f"validation_macro.{name}": value for name, value in opening.items()}
        run.tracker.log_metrics(run.id, [{"step": 0, "metrics": scores}])
    for name, stage in candidate.stages.items():
        run.tracker.log_file(run.id, Path(stage["folder"]) / "result.json", name)


@task(name="verify", cache_policy=NO_CACHE)
def verify(plan: Plan, version: int, samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Load the version by its URI in a fresh process and repeat the recorded samples. Raises VerificationError."""
    found = verify_in_fresh_process(tracking_uri(plan.workspace), plan.spec.name, version, samples)
    say(f"version {version} was loaded in a fresh process and repeated {found['rows']:.0f} recorded predictions")
    return found


@task(name="promote", cache_policy=NO_CACHE, **io_retries)
def promote(candidate: Candidate, version: int, decision: Facts) -> bool:
    """Move the alias `champion` when the rule holds; otherwise the version waits as `challenger`.

    Raises AliasConflict when the champion is no longer the one that the candidate was compared with.
    """
    plan, before = candidate.plan, candidate.champion
    store = model_store(plan.workspace)
    if before and before["version"] == version:  # made again to the bit: what was decided of it stands
        say(f"{plan.spec.name} version {version} is the champion already")
        return True
    # What a person decided of this version before was against another champion.
    stale = dict.fromkeys({"promoted_by", "promotion_reason"} & store.get(plan.spec.name, version)["tags"].keys(), "")
    # First: a production that is killed from here on can be brought to its end by what stands there.
    store.tag(
        plan.spec.name,
        version,
        {
            "champion_before": before["version"] if before else "none",
            "decision": "promote" if decision["promote"] else "keep",
            "decision_reason": decision["reason"],
            **stale,
        },
    )
    if decision["promote"]:
        store.set_champion(plan.spec.name, version, before["version"] if before else None)
    else:
        store.set_challenger(plan.spec.name, version)
    say(f"{plan.spec.name} version {version}: {decision['reason']}")
    return bool(decision["promote"])


@task(name="settle", cache_policy=NO_CACHE, **io_retries)
def settle(plan: Plan, version: int, facts: CardFacts | None = None) -> None:
    """The last step of a production: the card says what was decided. facts: unset, those that were registered."""
    name, store = plan.spec.name, model_store(plan.workspace)
    # A champion that was made again to the bit was held against itself: the registered facts tell of the one before.
    told = facts if facts and facts.get("champion_version") != version else None
    card = write_card(store, name, version, told or store.facts(name, version, plan.workspace.downloads))
    create_markdown_artifact(card, key=artifacts.key(plan, "card"))
    store.tag(name, version, {SETTLED: "yes"})


def _columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(key for row in samples for key in row))
    return {name: [row.get(name) for row in samples] for name in names}
