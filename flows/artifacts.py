"""Prefect artifacts: what one sees in a flow run of its data, its scores, its gates, and where the model went."""

from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from alter_core.data.dataset import SPLITS
from alter_core.training.result import GateTable
from flows.production import display
from flows.production.plan import Plan
from flows.production.production import Production, Quality
from registry.card import plain, table
from registry.errors import without_password
from registry.scorecard import Scorecards, macro_of, own_scorecard, score_of
from registry.store import is_server

MOST_WARNINGS = 50
PROGRESS_SECONDS = 2.0


def key(plan: Plan, what: str) -> str:
    """The name under which the artifact's history is kept: one per domain and kind."""
    return f"{plan.spec.name}-{what}".replace("_", "-").replace(".", "-")


class Follower:
    """Shows a step's progress in the terminal and as a Prefect progress artifact."""

    def __init__(self, plan: Plan, step: str) -> None:
        self._step = step
        self._display = display.current()
        self._artifact: Any = create_progress_artifact(0.0, key=key(plan, step))
        self._last = monotonic()

    def __call__(self, done: float, total: float, **fields: Any) -> None:
        label = str(fields.pop("phase", self._step))
        if self._display:
            self._display.update(label, done, total, fields)
        if monotonic() - self._last >= PROGRESS_SECONDS or done >= total:
            self._last = monotonic()
            note = f"{label}: {done:,.10g} of {total:,.10g}. {display.describe(fields)}"
            with suppress(httpx.HTTPError):  # a server that is away for a while ends no work of hours
                update_progress_artifact(self._artifact, 100.0 * done / max(total, 1), description=note)


def quality_summary(plan: Plan, quality: Quality) -> None:
    """Outcome, rows per task and split, and warnings."""
    lines = [
        f"# Quality of {plan.spec.name}: {quality.outcome}",
        "",
        f"The whole report is `{quality.folder}/quality.html`.",
    ]
    rows = []
    for name, found in quality.tasks.items():
        counts = (*(found["rows"].get(split, 0) for split in SPLITS), found["duplicates"], found["leakage"])
        rows.append([name, *(f"{count:,}" for count in counts)])
    lines += ["", table(["task", *SPLITS, "duplicates", "leakage"], rows)]
    warnings = quality.warnings
    if warnings:
        lines += ["", f"## {len(warnings)} warnings", "", *(f"- {plain(text)}" for text in warnings[:MOST_WARNINGS])]
    create_markdown_artifact("\n".join(lines), key=key(plan, "quality"), description="Data of this run")


def score_table(plan: Plan, scorecards: Scorecards) -> None:
    """One row per task: each subject's score on the test rows."""
    rows: list[dict[str, str | float]] = []
    for task, score in own_scorecard(scorecards)["tasks"].items():
        values = {one: score_of(scorecards, one, task) for one in scorecards}
        found = score.get("calibration")
        errors = {f"calibration error {side}": found[side]["error"] if found else None for side in ("before", "after")}
        rows.append({"task": task, "metric": score["metric"], **_known(values), **_known(errors)})
    macros = {one: macro_of(scorecards, one) for one in scorecards}
    rows.append({"task": "macro", "metric": "", **_known(macros)})
    create_table_artifact(rows, key=key(plan, "scores"), description="Test rows")


def _known(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items() if value is not None}


def gate_tables(plan: Plan, stage: str, gates: Mapping[str, GateTable]) -> None:
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


def links(production: Production, run: str, version: int) -> None:
    """Where the MLflow run and the registered version are; without an MLflow server, how to get there."""
    plan, tracker = production.plan, production.stores.tracker
    name, tracking_uri = plan.spec.name, tracker.tracking_uri
    if not is_server(tracking_uri):
        text = f"`alter ui` shows MLflow run `{run}` and version {version} of the model `{name}`."
        create_markdown_artifact(text, key=key(plan, "mlflow"), description="Where the model is")
        return
    root = without_password(tracking_uri).rstrip("/")
    place = f"{root}/#/experiments/{tracker.experiment_id}/runs/{run}"
    create_link_artifact(place, "MLflow run", key=key(plan, "mlflow-run"), description=run)
    create_link_artifact(
        f"{root}/#/models/{name}/versions/{version}",
        f"{name} version {version}",
        key=key(plan, "model-version"),
        description="The registered model",
    )


def _shade(weight: float) -> str:
    """A weight as a cell of a heat map that Markdown can show."""
    return f"{' ░▒▓█'[min(int(weight * 5), 4)]} {weight:.2f}"
