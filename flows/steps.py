"""The steps of one production: each takes and returns paths, digests and other plain values.

A step is a Prefect task; its Prefect name is the function's. Steps hold calls; what they call lives in alter_core and
registry. Retries stand only where there is input or output that may heal by itself: sources, the hub, MLflow.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from alter_core.backbone import backbone_record, resolve_backbone
from alter_core.data.ingest import ingest as ingest_rows
from alter_core.evaluation.job import EvaluationJob, Subject
from alter_core.mta import bundle_digest
from alter_core.process import Row, module_command, run_job, step_rows, training_command
from alter_core.quality.page import write_report
from alter_core.quality.report import validate as check_quality
from alter_core.training.order import TrainingJob
from alter_core.whole import write_json
from flows import artifacts
from flows.production import display
from flows.production.plan import Plan, StageName
from flows.production.settings import checkpoint_seconds

Facts = dict[str, Any]
ARTIFACT_SECONDS = 2.0
LOG_SECONDS = 5.0


def _heals(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may pass: connections and disks, never a wrong input."""
    try:
        state.result()
    except OSError:
        return True
    except BaseException as error:  # our errors and the registry's say it themselves; a defect or a stop never heals
        return bool(getattr(error, "transient", False))
    return False


io_retries: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _heals,
}


@dataclass(frozen=True)
class Start:
    """A bundle that training goes on from, and what stands for its content in keys."""

    bundle: Path
    digest: str
    version: int | None = None
    """Where it is a registered one."""

    @classmethod
    def at(cls, folder: Path, version: int | None = None) -> "Start":
        return cls(folder, bundle_digest(folder), version)


class Follower:
    """Shows a step's progress in the terminal and as a Prefect progress artifact."""

    def __init__(self, plan: Plan, step: str) -> None:
        self._step = step
        self._display = display.current()
        self._artifact: Any = create_progress_artifact(0.0, key=artifacts.key(plan, step))
        self._last = monotonic()

    def __call__(self, done: float, total: float, **fields: Any) -> None:
        label = str(fields.pop("phase", self._step))
        if self._display:
            self._display.update(label, done, total, fields)
        if monotonic() - self._last >= ARTIFACT_SECONDS or done >= total:
            self._last = monotonic()
            note = f"{label}: {done:,.10g} of {total:,.10g}. {display.describe(fields)}"
            with suppress(httpx.HTTPError):  # a server that is away for a while ends no work of hours
                update_progress_artifact(self._artifact, 100.0 * done / max(total, 1), description=note)


def say(text: str) -> None:
    """A line in the flow run's log, and in the terminal where somebody watches."""
    get_run_logger().info(text)
    if shown := display.current():
        shown.note(text)


@task(name="prepare backbone", cache_policy=NO_CACHE, **io_retries)
def prepare_backbone(plan: Plan) -> Facts:
    """Bring the backbone into the workspace. Raises BackboneError."""
    folder = resolve_backbone(plan.spec.backbone, plan.workspace, Follower(plan, "backbone"), base=plan.folder)
    return {**backbone_record(folder), "path": str(folder)}


@task(name="ingest", cache_policy=NO_CACHE, **io_retries)
def ingest(plan: Plan) -> Facts:
    """Bring the tasks' rows into the workspace. Raises DataError."""
    follower = Follower(plan, "ingest")
    dataset = ingest_rows(plan.spec, plan.folder, plan.workspace, plan.data_root, progress=follower)
    tasks = dataset.manifest["tasks"]
    rows = sum(sum(task["rows"].values()) for task in tasks.values())
    say(f"data {dataset.digest}: {rows:,} rows of {len(tasks)} tasks")
    return {
        "path": str(dataset.path),
        "digest": dataset.digest,
        "labels": {name: list(labels) for name, labels in dataset.labels.items()},
        "tasks": tasks,
    }


@task(name="validate", cache_policy=NO_CACHE)
def validate(plan: Plan, data: Facts, backbone: Facts, champion: int | None, profile: Facts | None) -> Facts:
    """Check the rows, also against those that the champion (a version, and its profile) was trained on.

    Raises QualityBlocked with the first bad rows.
    """
    folder = plan.run_folder(f"quality-{plan.quality_key(data, backbone['digest'], champion)}")
    record = folder / "quality.json"
    if record.exists():
        say("quality: reused, because rows, bounds, backbone, champion and code are unchanged")
    else:
        from transformers import AutoTokenizer

        from alter_core.data.dataset import TaskDataset

        dataset, tokenizer = TaskDataset.open(Path(data["path"])), AutoTokenizer.from_pretrained(backbone["path"])
        report = check_quality(dataset, plan.spec, tokenizer, profile, Follower(plan, "validate"))
        write_report(report, folder)
        report.raise_if_blocked()
        write_json(record, report.to_json())
    quality: Facts = json.loads(record.read_text(encoding="utf-8"))
    artifacts.quality_summary(plan, quality, folder)
    say(f"quality {quality['outcome']}: {len(quality['warnings'])} warnings; the page is {folder / 'quality.html'}")
    return {**{k: quality[k] for k in ("outcome", "warnings", "profile", "drift")}, "folder": str(folder)}


@task(name="train", task_run_name="{stage}", cache_policy=NO_CACHE)
def train(
    plan: Plan,
    stage: StageName,
    data: Facts,
    backbone: Facts,
    start: Start | None,
    log: Callable[[list[Row]], None] | None,
    processes: int = 1,
) -> Facts:
    """Train one stage in as many processes of its own, or reuse it when all that it depends on is unchanged.

    start: the bundle that the stage begins from; None: the backbone. Raises TrainingError.
    """
    key = plan.stage_key(stage, data["digest"], backbone["digest"], start.digest if start else None)
    folder = plan.run_folder(f"{stage}-{key}")
    result = folder / "result.json"
    reused = result.exists()
    sent: set[int] = set()
    if reused:
        say(f"{stage}: reused, because its rows, settings, backbone and code are unchanged (key {key})")
    else:
        job = TrainingJob(
            stage=stage,
            task=plan.added,
            spec=plan.spec.with_labels(data["labels"]),
            dataset=data["path"],
            backbone=backbone["path"],
            start=start.bundle if start else None,
            output=folder,
            checkpoints=folder / "checkpoints",
            trunk_cache=plan.workspace.trunk_cache,
            metrics=folder / "metrics.jsonl",
            seed=plan.spec.seed,
            checkpoint_seconds=checkpoint_seconds(),
        )
        follower = Follower(plan, stage)
        pending: list[Row] = []
        last = monotonic()

        def on_row(row: Row) -> None:
            nonlocal last
            fields = {k: row.get(k) for k in ("loss", "rows_per_second", "seconds_left", "text")}
            if row["phase"] == "train":
                follower(row["step"], row["steps"], **fields)
                pending.append(row)
            elif "done" in row:
                follower(row["done"], row["total"], **fields, phase=f"{stage} {row['phase']}")
            if monotonic() - last >= LOG_SECONDS:
                last = monotonic()
                if _logged(log, pending):
                    sent.update(row["step"] for row in pending)
                    pending.clear()

        run_job(training_command("alter_core.training.job", processes), job, folder, on_row)
    # With those of an earlier run that trained the stage or a part of it: a version's MLflow run tells all of them.
    rest = [row for row in step_rows(folder / "metrics.jsonl") if row["step"] not in sent]
    if not _logged(log, rest):
        say(f"MLflow did not answer: {len(rest)} steps of {stage} are missing from its metrics")
    facts: Facts = json.loads(result.read_text(encoding="utf-8"))
    artifacts.gate_tables(plan, stage, facts["gates"])
    return {**facts, "key": key, "folder": str(folder), "bundle": str(folder / "bundle"), "reused": reused}


def _logged(log: Callable[[list[Row]], None] | None, rows: list[Row]) -> bool:
    """Whether `rows` are where `log` puts them. A store that is away for a while ends no training."""
    try:
        if log:
            log(rows)
    except Exception as error:
        if not getattr(error, "transient", False):
            raise
        return False
    return True


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(plan: Plan, data: Facts, backbone: Facts, bundles: Mapping[str, str | None]) -> dict[str, str]:
    """Score each bundle (None: the backbone as it is) on the test rows; paths of the scorecards, by name.

    All that have no scorecard yet are scored in one process. Raises TrainingError.
    """
    keys = {
        name: plan.score_key(bundle_digest(Path(bundle)) if bundle else backbone["digest"], data["digest"])
        for name, bundle in bundles.items()
    }
    folders = {name: plan.run_folder(f"score-{key}") for name, key in keys.items()}
    missing = [name for name, folder in folders.items() if not (folder / "scorecard.json").exists()]
    if missing:
        job = EvaluationJob(
            dataset=data["path"],
            spec=plan.spec.with_labels(data["labels"]),
            subjects=tuple(Subject(name=n, bundle=bundles[n], output=str(folders[n])) for n in missing),
            backbone=backbone["path"],
            split="test",
            metrics=folders[missing[0]] / "metrics.jsonl",
        )
        follower = Follower(plan, "evaluate")

        def on_row(row: Row) -> None:
            follower(row["done"], row["total"], phase=f"score {row['subject']}", seconds_left=row.get("seconds_left"))

        run_job(module_command("alter_core.evaluation.job"), job, folders[missing[0]], on_row)
    return {name: str(folder / "scorecard.json") for name, folder in folders.items()}
