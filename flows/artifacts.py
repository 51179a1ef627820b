"""Prefect artifacts: what one sees in a flow run of its data, its scores, its gates, and where the model went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from alter_core.data.dataset import SPLITS
from flows.production.plan import Plan
from registry.card import own_scorecard, plain, shown_macro, table
from registry.errors import without_password

MOST_WARNINGS = 50


def key(plan: Plan, what: str) -> str:
    """The name under which the artifact's history is kept: one per domain and kind."""
    return f"{plan.spec.name}-{what}".replace("_", "-").replace(".", "-")


def quality_summary(plan: Plan, quality: Mapping[str, Any], folder: Path) -> None:
    """Outcome, rows per task and split, and warnings."""
    lines = [
        f"# Quality of {plan.spec.name}: {quality['outcome']}",
        "",
        f"The whole report is `{folder}/quality.html`.",
    ]
    rows = []
    for name, facts in quality["tasks"].items():
        counts = (*(facts["rows"].get(split, 0) for split in SPLITS), facts["duplicates"], facts["leakage"])
        rows.append([name, *(f"{count:,}" for count in counts)])
    lines += ["", table(["task", *SPLITS, "duplicates", "leakage"], rows)]
    warnings = quality["warnings"]
    if warnings:
        lines += ["", f"## {len(warnings)} warnings", "", *(f"- {plain(text)}" for text in warnings[:MOST_WARNINGS])]
    create_markdown_artifact("\n".join(lines), key=key(plan, "quality"), description="Data of this run")


def score_table(plan: Plan, scorecards: Mapping[str, Mapping[str, Any]]) -> None:
    """One row per task: each subject's score on the test rows."""
    rows: list[dict[str, Any]] = []
    for name in plan.spec.task_names:
        row: dict[str, Any] = {"task": name}
        for subject, card in scorecards.items():
            if scores := card["tasks"].get(name):
                row.setdefault("metric", scores["metric"])
                row[subject] = round(scores["metrics"][scores["metric"]]["value"], 4)
        rows.append(row)
    own = scorecards[own_scorecard(scorecards)]
    macros = {subject: shown_macro(card, own) for subject, card in scorecards.items()}
    macro = {subject: round(value, 4) for subject, value in macros.items() if value is not None}
    rows.append({"task": "macro", "metric": "", **macro})
    create_table_artifact(rows, key=key(plan, "scores"), description="Test rows")


def gate_tables(plan: Plan, stage: str, gates: Mapping[str, Any]) -> None:
    """The last layer's gate as the stage left it: which adapters each task draws on."""
    after = gates.get("after") or gates.get("before")
    if not after:
        return
    layer = list(after)[-1]
    gate = after[layer]
    adapters = list(dict.fromkeys(adapter for weights in gate.values() for adapter in weights))
    rows = [[task, *(_shade(weights.get(name, 0.0)) for name in adapters)] for task, weights in gate.items()]
    text = f"# Gate of {layer} after {stage}\n\n{table(['task', *adapters], rows)}"
    create_markdown_artifact(text, key=key(plan, f"gates-{stage}"), description="Weights of the adapters")


def links(plan: Plan, tracking_uri: str, experiment: str, run: str, version: int) -> None:
    """Where the MLflow run and the registered version are; without an MLflow server, how to get there."""
    name = plan.spec.name
    if not tracking_uri.startswith(("http://", "https://")):
        text = f"`alter ui` shows MLflow run `{run}` and version {version} of the model `{name}`."
        create_markdown_artifact(text, key=key(plan, "mlflow"), description="Where the model is")
        return
    root = without_password(tracking_uri).rstrip("/")
    create_link_artifact(
        f"{root}/#/experiments/{experiment}/runs/{run}", "MLflow run", key=key(plan, "mlflow-run"), description=run
    )
    create_link_artifact(
        f"{root}/#/models/{name}/versions/{version}",
        f"{name} version {version}",
        key=key(plan, "model-version"),
        description="The registered model",
    )


def _shade(weight: float) -> str:
    """A weight as a cell of a heat map that Markdown can show."""
    return f"{' ░▒▓█'[min(int(weight * 5), 4)]} {weight:.2f}"
