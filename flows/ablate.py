"""The flow that compares a domain's model with its baselines: the same rows, the same budget, several seeds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from alter_core.ablation.job import AblationJob
from alter_core.ablation.screening import Screening
from alter_core.ablation.table import Table
from alter_core.errors import SpecError, TrainingError, WorkspaceError
from alter_core.process import Row, end_leftovers, module_command, run_job
from alter_core.spec.yaml_text import read_mapping
from flows import artifacts, steps
from flows.production.plan import ABLATION_LOCK, Plan, code_of
from flows.production.production import Production
from flows.production.stores import Stores
from flows.publish import Run, ended, measured
from registry.spending import ABLATION
from registry.tracking import StepMetrics


def read_variants(file: Path) -> dict[str, dict[str, Any]]:
    """Arms of a YAML file, as name -> parts of a spec. Raises SpecError where it holds anything else."""
    found, _, twice = read_mapping(file)
    wrong = list(twice)
    wrong += [f"{name}: {parts!r} is no mapping" for name, parts in found.items() if not isinstance(parts, dict)]
    if wrong:
        raise SpecError(f"{file}: give names with parts of a spec, such as `wide: {{mta: {{rank: 64}}}}`", wrong)
    return found


@dataclass(frozen=True)
class Ablated:
    """What an ablation left."""

    folder: Path
    """With ablation.json, ablation.md and ablation.png, or screening.json and screening.md."""
    table: Table | Screening

    @property
    def page(self) -> Path:
        return self.folder / f"{'screening' if isinstance(self.table, Screening) else 'ablation'}.md"


@flow(name="ablate", flow_run_name="ablate {domain}", persist_result=False, validate_parameters=False)
def ablate(
    domain: str,
    data_root: str | None = None,
    seeds: int = 3,
    arms: tuple[str, ...] | None = None,
    rows: int | None = None,
    variants: str | None = None,
    rates: tuple[float, ...] | None = None,
    steps_factor: float = 1.0,
    patience: int | None = None,
    at_once: int = 1,
    screen: bool = False,
) -> Ablated:
    """Run the ablation of `domain`, on all rows or fewer.

    rows: at most so many of each source. variants: a YAML file of further MTA arms, as AblationJob.variants. rates: all
    that an arm is tried at; unset, a grid that is widened. at_once: trials side by side. screen: compare by loss alone.
    Trials that are there already are reused.
    Raises AlterError subclasses for wrong input and failed jobs.
    """
    plan = Plan.read(domain, Path(data_root) if data_root else None)
    plan = plan if rows is None else replace(plan, spec=plan.spec.with_limit(rows))
    further = read_variants(Path(variants)) if variants else {}
    stores = Stores(plan.workspace, plan.spec.name + ABLATION)
    production = Production(plan, stores, steps.prepare_backbone(plan), steps.ingest(plan))
    steps.validate(production, None)
    settings: dict[str, Any] = {"seeds": seeds, "arms": arms, "variants": further}
    settings |= {"steps_factor": steps_factor, "patience": patience, "at_once": at_once, "screen": screen}
    settings |= {"rates": rates, "max_rates": len(rates)} if rates else {}
    tracker = stores.tracker
    tracker.sweep()
    tags = {"domain": plan.spec.name, "data_digest": production.rows.digest, "code": code_of("ablation trial")}
    run = Run(tracker.start_run(f"ablation of {plan.spec.name}", {**settings, "rows": rows}, tags), tracker)
    with ended(run), measured(run):
        found = run_ablation(production, settings)
        record(run, found, tags)
    return found


def record(run: Run, ablated: Ablated, tags: Mapping[str, str]) -> None:
    """Log an ablation's files and its comparison in `run`, and each arm in a run nested in it."""
    for file in (ablated.page.with_suffix(".json"), ablated.page, ablated.page.with_suffix(".png")):
        if file.exists():
            run.tracker.log_file(run.id, file)
    table = ablated.table
    if isinstance(table, Screening):
        losses = {f"{arm.name}.{split}_loss": value for arm in table.arms for split, value in arm.losses.items()}
        run.tracker.log_metrics(run.id, [{"step": 0, "metrics": losses}])
        return
    if found := table.comparison:
        run.tracker.set_tags(run.id, {"mta": found.mta, "baseline": found.baseline})
        difference = {f"difference.{name}": getattr(found, name) for name in ("value", "low", "high")}
        run.tracker.log_metrics(run.id, [{"step": 0, "metrics": difference}])
    for arm in table.arms:
        kept = ("name", "title", "family", "seeds", "rate", "rate_at_edge", "grid", "trained_parameters")
        params = {name: getattr(arm, name) for name in kept} | {"cost": arm.cost.to_json(), "metrics": table.metrics}
        own = run.tracker.start_run(arm.name, params, {**tags, "mlflow.parentRunId": run.id})
        with ended(Run(own, run.tracker)):
            means = {f"test.{name}": task.value for name, task in arm.tasks.items()}
            means |= {"macro_low": arm.macro.low, "macro_high": arm.macro.high}
            means |= {"validation_macro": arm.validation, "seconds": arm.seconds}
            means |= {f"{split}_loss": value for split, value in (arm.losses.mean if arm.losses else {}).items()}
            rows: list[StepMetrics] = [
                {"step": seed, "metrics": {"macro_of_seed": value}}
                for seed, value in zip(arm.seeds, arm.macro_by_seed, strict=True)
            ]
            last: StepMetrics = {"step": arm.seeds[-1], "metrics": {"macro": arm.macro.value, **means}}
            run.tracker.log_metrics(own, [*rows, last])


class Told:
    """Shows what an ablation's process tells: how many trials are done, and how far the one is that is worked on."""

    def __init__(self, follower: Callable[..., None]) -> None:
        """follower: as artifacts.Follower."""
        self._follower = follower
        self._trial: Row | None = None

    def __call__(self, row: Row) -> None:
        if row["phase"] == "shared":
            steps.log_line(row["text"])
            return
        within = ""
        if row["phase"] == "ablate":
            self._trial = row
        elif row["phase"] == "train":
            within = f": train {row['step']:,}/{row['steps']:,}"
        elif "done" in row:
            within = f": {row['phase']} {row['done']:,}/{row['total']:,}"
        if (trial := self._trial) and (within or trial is row):
            left = max(0.0, trial["seconds_left"] - (row["time"] - trial["time"]))
            self._follower(trial["done"], trial["total"], seconds_left=left, text=trial["text"] + within)


@task(name="ablation", cache_policy=NO_CACHE)
def run_ablation(production: Production, settings: Mapping[str, Any]) -> Ablated:
    """The ablation in a process of its own. settings: of AblationJob. Raises TrainingError."""
    plan = production.plan
    folder = plan.run_folder("ablation")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ABLATION_LOCK, timeout=0):
            end_leftovers(folder)  # of an ablation that was killed
            return _run_ablation(production, settings, folder)
    except Timeout:
        raise WorkspaceError(
            f"an ablation of {plan.spec.name} runs in this workspace ({plan.workspace.home}) already; wait for it, or "
            "set ALTER_HOME to another folder"
        ) from None


def _run_ablation(production: Production, settings: Mapping[str, Any], folder: Path) -> Ablated:
    plan, rows = production.plan, production.rows
    job = AblationJob(
        spec=plan.spec.with_labels(rows.labels),
        dataset=rows.path,
        backbone=production.backbone.path,
        output=folder,
        trunk_cache=plan.workspace.trunk_cache,
        metrics=folder / "metrics.jsonl",
        **settings,
        code=code_of("ablation trial"),
    )
    run_job(module_command("alter_core.ablation.job"), job, folder, Told(artifacts.Follower(plan, "ablation")))
    table = Screening.read(folder / "screening.json") if job.screen else Table.read(folder / "ablation.json")
    if not table:
        raise TrainingError(f"the ablation left no whole table in {folder}: remove it, and run again")
    found = Ablated(folder, table)
    create_markdown_artifact(found.page.read_text(encoding="utf-8"), key=artifacts.key(plan, "ablation"))
    return found
