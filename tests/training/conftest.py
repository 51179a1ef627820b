"""A tiny domain, ingested; jobs over it that run in this process or in a forked one that may be killed."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from alter_core.backbone import resolve_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.mta.replicas import use_threads
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from alter_core.training.order import TrainingJob
from alter_core.training.result import StageResult
from alter_core.training.run import run
from alter_core.workspace import Workspace
from tests.conftest import tiny_spec, write_domain


@dataclass(frozen=True)
class Domain:
    """A domain that is ready to train."""

    spec: DomainSpec
    dataset: TaskDataset
    backbone: Path
    workspace: Workspace

    def job(self, output: Path, stage: str = "stage_one", *, start: Path | None = None, **changes: Any) -> TrainingJob:
        """A job with the spec's fields, the stage's or the job's own changed."""
        values = self.spec.model_dump(mode="json")
        own = {name: changes.pop(name) for name in list(changes) if name in TrainingJob.model_fields}
        for name in list(changes):
            if name in values and isinstance(changes[name], dict) and name not in ("mta",):
                changes[name] = {**(values[name] or {}), **changes[name]}
            if name in values:
                values[name] = changes.pop(name)
        values["stage_two" if stage == "stage_two" else "stage_one"].update(changes)
        return TrainingJob.model_validate(
            {
                "stage": stage,
                "spec": values,
                "dataset": self.dataset.path,
                "backbone": self.backbone,
                "start": start,
                "output": output,
                "checkpoints": output / "checkpoints",
                "trunk_cache": self.workspace.trunk_cache,
                "metrics": output / "metrics.jsonl",
                **own,
            }
        )


@pytest.fixture(scope="session")
def domain(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Domain:
    use_threads(1)
    folder = tmp_path_factory.mktemp("domain")
    workspace = Workspace(tmp_path_factory.mktemp("home"))
    spec = load_domain(write_domain(folder, tiny_spec(tiny_backbone)))
    dataset = ingest(spec, folder, workspace)
    return Domain(spec.with_labels(dataset.labels), dataset, resolve_backbone(spec.backbone, workspace), workspace)


_PRELOADED = [
    "tests.training.conftest",
    "datasets",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
    "transformers.generation",
]
Row = dict[str, Any]


@pytest.fixture(scope="session")
def train() -> Callable[[TrainingJob], tuple[StageResult, list[Row]]]:
    """Runs a job in this process; its result and the rows it logged."""

    def trained(job: TrainingJob) -> tuple[StageResult, list[Row]]:
        rows: list[Row] = []
        return run(job, lambda **fields: rows.append(fields), lambda: False), rows

    return trained


@pytest.fixture(scope="session")
def forked() -> ForkServerContext:
    """Starts processes that have torch and transformers imported already, so that killing many of them is cheap."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def run_job_file(path: str) -> None:
    """What a forked process does: the job's own main, with its own exit code."""
    import sys

    use_threads(1)  # as `domain` has it for jobs in this process
    from alter_core.training.job import main

    sys.exit(main([path]))


def start(context: ForkServerContext, job: TrainingJob) -> ForkServerProcess:
    """Start `job` in a process of its own."""
    job.output.mkdir(parents=True, exist_ok=True)
    file = job.output / "job.json"
    file.write_text(job.model_dump_json())
    process = context.Process(target=run_job_file, args=(str(file),))
    process.start()
    return process
