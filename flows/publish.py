"""What a production leaves in MLflow: its run, the registered version, the decision. Calls the registry only."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal

from alter_core.errors import AlterError
from alter_core.spec import load_domain
from alter_core.workspace import Workspace
from flows.code_wheel import build_wheel
from flows.jobs import Row
from flows.plan import Plan, code_digest, find_domain
from flows.steps import Facts, io_retries, say
from registry.card import CardFacts, render_card
from registry.models import CHAMPION, ModelStore
from registry.promotion import decide as decide_by_rule
from registry.tracking import Tracker
from registry.verification import verify_in_fresh_process
from registry.versions import Version

if TYPE_CHECKING:  # torch takes seconds to import, and most commands do without it
    from alter_core.evaluation.predict import Predictor

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


def tracking_uri(workspace: Workspace) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite store in the workspace."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    workspace.mlflow_store.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{workspace.mlflow_store}"


def model_store(workspace: Workspace) -> ModelStore:
    """The registry of this workspace, or of the server that the environment names."""
    return ModelStore(tracking_uri(workspace))


def _tracker(plan: Plan) -> Tracker:
    local = "MLFLOW_TRACKING_URI" not in os.environ
    return Tracker(
        tracking_uri(plan.workspace),
        plan.workspace.mlflow_artifacts.as_uri() if local else None,
        plan.spec.name,
    )


def sweep(plan: Plan) -> list[str]:
    """Close the MLflow runs of this domain whose process is gone (it was killed); their ids."""
    return _tracker(plan).sweep()


def champion(plan: Plan) -> Version | None:
    """The version that users load today; None before the first."""
    return model_store(plan.workspace).alias(plan.spec.name, CHAMPION)


def champion_bundle(plan: Plan) -> str:
    """Local folder of the champion's bundle."""
    cache = plan.workspace.home / "downloads"
    return str(model_store(plan.workspace).bundle_path(plan.spec.name, CHAMPION, cache))


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
    """An MLflow run that is FINISHED, FAILED or KILLED at the end, whatever happens in the block."""
    tracker = _tracker(plan)
    tracker.sweep()
    spec = plan.spec.model_dump(mode="json")
    tags = {
        "domain": plan.spec.name,
        "run_key": run_key,
        "data_digest": data["digest"],
        "backbone": backbone["source"],
        "code": code_digest(),
        "flow_run": flow_run_id or "",
    }
    run = Run(tracker.start_run(f"{plan.spec.name} {run_key}", spec, tags), tracker)
    try:
        profile = {name: task["rows"] for name, task in data["tasks"].items()}
        tracker.log_dataset(run.id, plan.spec.name, data["digest"], profile, data["path"])
        tracker.log_file(run.id, plan.file, "spec")
        tracker.log_file(run.id, Path(data["quality"]["folder"]), "quality")
        yield run
    except (KeyboardInterrupt, TerminationSignal, SystemExit):
        tracker.end_run(run.id, "KILLED")
        raise
    except BaseException:
        tracker.end_run(run.id, "FAILED")
        raise
    tracker.end_run(run.id, "FINISHED")


def decide(plan: Plan, scorecards: Mapping[str, Mapping[str, Any]]) -> Facts:
    """The promotion rule on the candidate's and the champion's scores of the same test rows."""
    own = scorecards["stage_two" if "stage_two" in scorecards else "stage_one"]
    against = scorecards.get("champion")
    rule = plan.spec.promotion
    decision = decide_by_rule(
        own["row_scores"], against and against["row_scores"], rule.max_task_drop, rule.confidence, plan.spec.seed
    )
    return {"promote": decision.promote, "reason": decision.reason, "numbers": decision.numbers}


@task(name="register", cache_policy=NO_CACHE, **io_retries)
def register(
    plan: Plan,
    run: Run,
    data: Facts,
    backbone: Facts,
    stages: Mapping[str, Facts],
    scorecards: Mapping[str, Mapping[str, Any]],
    decision: Facts,
    before: Version | None,
) -> int:
    """Register the last stage's bundle with its card; the same run key is registered once. Gives the version."""
    spec, last = plan.spec, list(stages)[-1]
    own = scorecards[last]
    run_key = plan.run_key(data["digest"], backbone["digest"])
    facts = _card_facts(plan, run, data, backbone, stages, scorecards, decision, before)
    card = render_card(facts)
    metrics = {
        f"test.{name}.{metric}": value["value"]
        for name, scores in own["tasks"].items()
        for metric, value in scores["metrics"].items()
    }
    sample = own["samples"][0]
    version = model_store(plan.workspace).register(
        spec.name,
        run.id,
        Path(stages[last]["bundle"]),
        run_key=run_key,
        card=card,
        code_wheel=build_wheel(plan.workspace.home / "wheels"),
        tags={
            "data_digest": data["digest"],
            "spec_digest": spec.digest,
            "code": code_digest(),
            "backbone": backbone["source"],
            "macro": f"{own['macro']['value']:.6f}",
            "quality": data["quality"]["outcome"],
            "champion_before": before["version"] if before else "none",
            "decision": "promote" if decision["promote"] else "keep",
            "decision_reason": decision["reason"],
        },
        example={"task": sample["task"], "input": sample["input"]},
        requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in SERVING_PACKAGES],
        metrics={**metrics, "macro": own["macro"]["value"]},
        description=spec.description,
        facts=facts,
    )
    run.tracker.log_table(run.id, _columns(own["samples"]), "samples.json")
    for name, figure in figures_of(facts).items():
        run.tracker.log_figure(run.id, figure, f"figures/{name}")
    for name, stage in stages.items():
        run.tracker.log_file(run.id, Path(stage["folder"]) / "result.json", name)
    create_markdown_artifact(card, key=f"{spec.name}-card".replace("_", "-"))
    return version


@task(name="verify", cache_policy=NO_CACHE)
def verify(plan: Plan, version: int, samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Load the version by its URI in a fresh process and repeat the recorded samples. Raises VerificationError."""
    found = verify_in_fresh_process(tracking_uri(plan.workspace), plan.spec.name, version, samples)
    say(f"version {version} was loaded in a fresh process and repeated {found['rows']:.0f} recorded predictions")
    return found


@task(name="promote", cache_policy=NO_CACHE, **io_retries)
def promote(plan: Plan, version: int, decision: Facts, before: Version | None) -> bool:
    """Move the alias `champion` when the rule holds; otherwise the version waits as `challenger`."""
    store = model_store(plan.workspace)
    if decision["promote"]:
        store.set_champion(plan.spec.name, version, before["version"] if before else None)
    else:
        store.set_challenger(plan.spec.name, version)
    say(f"{plan.spec.name} version {version}: {decision['reason']}")
    return bool(decision["promote"])


def _card_facts(
    plan: Plan,
    run: Run,
    data: Facts,
    backbone: Facts,
    stages: Mapping[str, Facts],
    scorecards: Mapping[str, Mapping[str, Any]],
    decision: Facts,
    before: Version | None,
) -> CardFacts:
    spec = plan.spec
    costs = {name: facts["cost"] for name, facts in stages.items()}
    return {
        "domain": spec.name,
        "description": spec.description,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": {
            task.name: {
                "type": task.type,
                "description": task.description,
                "licence": task.licence,
                "rows": data["tasks"][task.name]["rows"],
                "labels": data["labels"].get(task.name, ()),
                "source": data["tasks"][task.name].get("source", ""),
            }
            for task in spec.tasks
        },
        "scorecards": scorecards,
        "champion_version": before["version"] if before else None,
        "data": {"digest": data["digest"], "quality": data["quality"]},
        "backbone": {
            "model": backbone["source"],
            "revision": backbone["revision"],
            "licence": spec.backbone.licence,
            "digest": backbone["digest"],
            "parameters": backbone["parameters"],
        },
        "parameters": {
            "total": max(cost["total_parameters"] for cost in costs.values()),
            "trained": sum(cost["trained_parameters"] for cost in costs.values()),
        },
        "costs": costs,
        "decision": decision,
        "training": {name: _losses(Path(facts["folder"]) / "metrics.jsonl") for name, facts in stages.items()},
        "gates": stages[list(stages)[-1]]["gates"],
        "versions": {
            "run key": plan.run_key(data["digest"], backbone["digest"]),
            "spec digest": spec.digest,
            "code": f"{installed('alter-factory')}+{code_digest()}",
            "MLflow run": run.id,
        },
    }


def _losses(metrics: Path) -> list[dict[str, float]]:
    """Loss per step; of a step that was done again after a kill, the last."""
    rows = (json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines())
    by_step = {row["step"]: row["loss"] for row in rows if row["phase"] == "train"}
    return [{"step": step, "loss": by_step[step]} for step in sorted(by_step)]


def _columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(key for row in samples for key in row))
    return {name: [row.get(name) for row in samples] for name in names}


def read_scorecards(paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Scorecards by subject, from their files."""
    return {name: json.loads(Path(path).read_text(encoding="utf-8")) for name, path in paths.items()}


def model_name(domain: str) -> str:
    """Name of a domain's registered model; a model may be there without its spec."""
    try:
        return load_domain(find_domain(domain)).name
    except AlterError:
        return domain


def load_predictor(domain: str, version: str) -> "Predictor":
    """The registered model, ready to answer. Raises RegistryError subclasses and BundleError."""
    from alter_core.evaluation.predict import Predictor

    workspace = Workspace.default()
    store = model_store(workspace)
    return Predictor.from_bundle(store.bundle_path(model_name(domain), version, workspace.home / "downloads"))


def list_versions(domain: str | None) -> list[Version]:
    """Registered versions of one domain or of all, newest first."""
    return model_store(Workspace.default()).versions(model_name(domain) if domain else None)


def serve_ui(host: str, port: int) -> int:
    """MLflow's UI on this workspace's store until it is stopped; its exit code."""
    workspace = Workspace.default()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(workspace)]
    command += ["--default-artifact-root", workspace.mlflow_artifacts.as_uri(), "--host", host, "--port", str(port)]
    return subprocess.call(command)
