"""The steps of one production that bring, train and score: each takes the production and returns a typed result.

A step is a Prefect task; its Prefect name is the function's. Steps hold calls; what they call lives in alter_core and
registry. Retries stand only where there is input or output that may heal by itself: sources, the hub, MLflow.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from alter_core.backbone import resolve_backbone
from alter_core.data.ingest import ingest as ingest_rows
from alter_core.errors import TrainingError
from alter_core.evaluation.order import EvaluationJob, Subject
from alter_core.mta import bundle_digest
from alter_core.problems import counted
from alter_core.process import Row, module_command, run_job, step_rows, training_command
from alter_core.quality.page import write_report
from alter_core.quality.report import validate as check_quality
from alter_core.training.order import TrainingJob
from alter_core.whole import digest_of, write_json
from flows import artifacts
from flows.artifacts import Follower
from flows.production import display
from flows.production.earlier import champion_profile
from flows.production.forecast import forecast
from flows.production.plan import Plan, StageName, code_of
from flows.production.production import Backbone, Production, Quality, Rows
from flows.production.settings import checkpoint_seconds
from flows.production.stage import Stage, Start
from registry.scorecard import Scorecard
from registry.versions import Version

LOG_SECONDS = 5.0
BAG_OF_WORDS = "bag_of_words"


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


def log_line(text: str) -> None:
    """A line in the flow run's log, and in the terminal where somebody watches."""
    get_run_logger().info(text)
    if shown := display.current():
        shown.note(text)


@task(name="prepare backbone", cache_policy=NO_CACHE, **io_retries)
def prepare_backbone(plan: Plan) -> Backbone:
    """Bring the backbone into the workspace. Raises BackboneError."""
    follower = Follower(plan, "backbone")
    backbone = Backbone.read(resolve_backbone(plan.spec.backbone, plan.workspace, follower, base=plan.folder))
    for note in backbone.notes:
        log_line(f"backbone {backbone.source}: {note}")
    return backbone


@task(name="ingest", cache_policy=NO_CACHE, **io_retries)
def ingest(plan: Plan) -> Rows:
    """Bring the tasks' rows into the workspace. Raises DataError."""
    rows = Rows.of(ingest_rows(plan.spec, plan.folder, plan.workspace, plan.data_root, Follower(plan, "ingest")))
    count = sum(sum(task["rows"].values()) for task in rows.tasks.values())
    log_line(f"data {rows.digest}: {counted(count, 'row')} of {counted(len(rows.tasks), 'task')}")
    return rows


@task(name="validate", cache_policy=NO_CACHE)
def validate(production: Production, champion: Version | None) -> Quality:
    """Check the rows, also against those that the champion was trained on.

    Raises QualityBlocked with the first bad rows.
    """
    plan, rows, backbone = production.plan, production.rows, production.backbone
    number = champion["version"] if champion else None
    key = plan.quality_key(rows.digest, rows.tasks, backbone.digest, number)
    folder = plan.run_folder(f"quality-{key}")
    record = folder / "quality.json"
    if record.exists():
        log_line("quality: reused, because rows, bounds, backbone, champion and code are unchanged")
    else:
        from transformers import AutoConfig, AutoTokenizer

        from alter_core.data.dataset import TaskDataset

        profile = champion_profile(production, champion)
        dataset, tokenizer = TaskDataset.open(rows.path), AutoTokenizer.from_pretrained(backbone.path)
        report = check_quality(
            dataset,
            plan.spec,
            tokenizer,
            profile,
            Follower(plan, "validate"),
            AutoConfig.from_pretrained(backbone.path),
        )
        write_report(report, folder)
        report.raise_if_blocked()
        write_json(record, report.to_json())
    quality = Quality.read(folder)
    artifacts.quality_summary(plan, quality)
    log_line(f"quality {quality.outcome}: {len(quality.warnings)} warnings; the page is {folder / 'quality.html'}")
    return quality


@task(name="train", task_run_name="{stage}", cache_policy=NO_CACHE)
def train(
    production: Production,
    stage: StageName,
    start: Start | None,
    log: Callable[[list[Row]], None] | None,
    processes: int = 1,
) -> Stage:
    """Train one stage in as many processes of its own, or reuse it when all that it depends on is unchanged.

    start: the bundle that the stage begins from; None: the backbone. Raises TrainingError.
    """
    plan, rows, backbone = production.plan, production.rows, production.backbone
    refreshed = start.refreshed if start else ()
    key = plan.stage_key(stage, rows.digest, backbone.digest, start.digest if start else None, refreshed)
    folder = plan.run_folder(f"{stage}-{key}")
    sent: set[int] = set()
    trained = Stage.find(folder)
    if trained:
        log_line(f"{stage}: reused, because its rows, settings, backbone and code are unchanged (key {key})")
    else:
        job = _job(production, stage, folder, start.bundle if start else None, refreshed)
        if stage == "stage_one" or stage == "stage_two":
            log_line(forecast(production, stage, plan.spec.stages[stage]))
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
        log_line(f"MLflow did not answer: {len(rest)} steps of {stage} are missing from its metrics")
    if not (trained := trained or Stage.find(folder)):
        raise TrainingError(f"the training of {stage} left no whole result in {folder}: remove it, and run again")
    artifacts.gate_tables(plan, stage, trained.result.gates)
    return trained


def _job(
    production: Production,
    stage: StageName,
    folder: Path,
    start: Path | None,
    refreshed: tuple[str, ...],
    taken_back: Path | None = None,
) -> TrainingJob:
    plan, rows = production.plan, production.rows
    return TrainingJob(
        stage=stage,
        task=plan.added,
        refreshed=refreshed,
        taken_back=taken_back,
        spec=plan.spec.with_labels(rows.labels),
        dataset=rows.path,
        backbone=production.backbone.path,
        start=start,
        output=folder,
        checkpoints=folder / "checkpoints",
        trunk_cache=plan.workspace.trunk_cache,
        metrics=folder / "metrics.jsonl",
        seed=plan.spec.seed,
        checkpoint_seconds=checkpoint_seconds(),
    )


@task(name="take back", cache_policy=NO_CACHE)
def take_back(production: Production, refreshed: Stage, start: Start, tasks: Sequence[str]) -> Stage:
    """The refreshed model with these tasks' own weights of `start` again. Raises TrainingError."""
    plan, digest = production.plan, refreshed.result.bundle_digest
    folder = plan.run_folder(f"refresh-{digest_of(digest, start.digest, tasks, code_of('stage'))}")
    log_line(f"less than the champion's on test rows, so the champion's adapters stay: {', '.join(tasks)}")
    if not Stage.find(folder):
        job = _job(production, "refresh", folder, refreshed.bundle, tuple(tasks), taken_back=start.bundle)
        run_job(module_command("alter_core.training.job"), job, folder, None)
    if not (stage := Stage.find(folder)):
        raise TrainingError(f"putting tasks back left no whole result in {folder}: remove it, and run again")
    return stage


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
def evaluate(production: Production, bundles: Mapping[str, str | None], own: str) -> dict[str, Scorecard]:
    """Score each bundle (None: the backbone as it is, or a bag of words) on the test rows; scorecards by name.

    own: whose label tasks get their temperatures. A bag of words depends on the rows alone, whatever the backbone. All
    that have no scorecard yet are scored in one process. Raises TrainingError.
    """
    plan, rows, backbone = production.plan, production.rows, production.backbone
    alone = {BAG_OF_WORDS: BAG_OF_WORDS}
    keys = {
        name: plan.score_key(
            bundle_digest(Path(bundle)) if bundle else alone.get(name, backbone.digest), rows.digest, name == own
        )
        for name, bundle in bundles.items()
    }
    folders = {name: plan.run_folder(f"score-{key}") for name, key in keys.items()}
    files = {name: folder / "scorecard.json" for name, folder in folders.items()}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        job = EvaluationJob(
            dataset=str(rows.path),
            spec=plan.spec.with_labels(rows.labels),
            subjects=tuple(
                Subject(
                    name=n, bundle=bundles[n], output=str(folders[n]), kind="bag_of_words" if n in alone else "model"
                )
                for n in missing
            ),
            backbone=str(backbone.path),
            calibrate=own,
            answers=plan.answers_folder,
            metrics=folders[missing[0]] / "metrics.jsonl",
        )
        follower = Follower(plan, "evaluate")

        def on_row(row: Row) -> None:
            follower(row["done"], row["total"], phase=f"score {row['task']}", seconds_left=row.get("seconds_left"))

        run_job(module_command("alter_core.evaluation.job"), job, folders[missing[0]], on_row)
    scorecards: dict[str, Scorecard] = {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()
    }
    artifacts.score_table(plan, scorecards)
    return scorecards
