"""What a stage will take, said before it trains: by what the last one like it took here, and by what its files need."""

from pathlib import Path

from alter_core.spec import StageSpec
from alter_core.training.result import RESULT_FILE, StageResult
from flows.production.plan import StageName
from flows.production.production import Production

COPIES = 2  # of the backbone's weights: in the last stage's bundle, and in the registered one


def need_disk(production: Production) -> None:
    """Raises WorkspaceError where the disk cannot hold what a version writes."""
    backbone = production.backbone.path
    size = sum(file.stat().st_size for file in backbone.rglob("*") if file.is_file())
    production.plan.workspace.need(COPIES * size, f"a version of {production.plan.spec.name}")


def forecast(production: Production, name: StageName, stage: StageSpec) -> str:
    """Time and memory that a stage is expected to take, in words: at the speed of the last one of this domain here."""
    rows = sum(task["rows"].get("train", 0) for task in production.rows.tasks.values())
    steps = stage.count_steps(rows)
    last = _last(production.plan.workspace.runs / production.plan.spec.name, name)
    size = f"{name}: {steps:,} steps of {stage.rows_per_step} rows"
    if last is None or not last.cost.rows:
        return f"{size}; no such stage of this domain was trained here yet, so its time is told once it runs"
    minutes = steps * stage.rows_per_step * last.cost.train_seconds / last.cost.rows / 60
    memory = last.cost.peak_memory_mb / 1e3
    return f"{size}; about {minutes:,.1f} minutes and {memory:,.1f} GB, as the last one took here on {last.device}"


def _last(runs: Path, name: StageName) -> StageResult | None:
    """The newest result of a stage of this name; None where none was trained."""
    files = sorted(runs.glob(f"{name}-*/{RESULT_FILE}"), key=lambda file: file.stat().st_mtime)
    return next((found for file in reversed(files) if (found := StageResult.read(file))), None)
