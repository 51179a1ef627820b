"""Candidate: what one production has made and scored, before it is registered; the promotion rule and card read it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

from alter_core.data.ingest import shown_source
from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from alter_core.process import step_rows
from alter_core.training.result import trained_in_all
from flows.production.plan import Plan, code_of
from flows.production.production import Production, Quality
from flows.production.stage import Stage
from registry.comparison import aggregates
from registry.facts import CardFacts
from registry.promotion import Decision, decide
from registry.scorecard import Scorecard, Scorecards, own_scorecard, score_of
from registry.versions import Version

SPLIT = "split"  # tag of a version: what divided the rows of each task


@dataclass(frozen=True)
class Candidate:
    """One production's model with all that it was made of."""

    production: Production
    quality: Quality
    stages: Mapping[str, Stage]
    """In the order in which they were trained."""
    started_from: int | None
    """The version whose weights training went on from; None: the backbone's."""
    run_id: str
    """Of the MLflow run."""
    champion: Version | None = None
    """The version that it is compared with."""
    scorecards: Scorecards = field(default_factory=dict)
    """zero_shot, each stage, and champion where there is one -> scorecard."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def last(self) -> Stage:
        """Whose bundle is registered."""
        return self.stages[list(self.stages)[-1]]

    @property
    def own(self) -> Scorecard:
        """The last stage's scorecard."""
        return own_scorecard(self.scorecards)

    @property
    def renewed(self) -> tuple[str, ...]:
        """The tasks that a refresh made better; none where nothing was refreshed."""
        return tuple(self.last.result.validation.by_task or ()) if "refresh" in self.stages else ()

    @property
    def behind(self) -> list[str]:
        """Of those, the ones whose score is less than the champion's."""
        if "champion" not in self.scorecards:
            return []
        scores = {
            name: [score_of(self.scorecards, one, name) for one in ("refresh", "champion")] for name in self.renewed
        }
        return [
            name for name, (own, theirs) in scores.items() if own is not None and theirs is not None and own < theirs
        ]

    @property
    def origins(self) -> dict[str, int]:
        """Task -> the version that its adapters are from, of the tasks that a refresh left as they were."""
        if "refresh" not in self.stages or self.started_from is None:
            return {}
        before = self.production.facts_of(self.started_from)["tasks"]
        names = [name for name in self.production.plan.spec.task_names if name not in self.renewed]
        return {name: before.get(name, {}).get("origin", self.started_from) for name in names}

    @property
    def calibration(self) -> dict[str, Mapping[str, float]]:
        """What the bundle is told as it is registered: its tasks' temperatures and bounds; empty where it has none."""
        found = {name: score.get("calibration") for name, score in self.own["tasks"].items()}
        fitted = {name: bound["below"] for name, one in found.items() if one and (bound := one.get("bound"))}
        given = {task.name: task.abstain_below for task in self.production.plan.spec.tasks if task.abstain_below}
        told = {
            TEMPERATURES: {name: one["temperature"] for name, one in found.items() if one and one["temperature"]},
            ABSTAIN_BELOW: {**given, **fitted},
        }
        return {key: values for key, values in told.items() if values}

    def decide(self) -> Decision:
        """The promotion rule on its own and the champion's scores of the same test rows."""
        none: Scorecard = {"tasks": {}, "macro": self.own["macro"]}  # of a champion that has none of these tasks
        against = self.scorecards.get("champion", none)
        plan = self.production.plan
        rule = plan.spec.promotion
        decision = decide(
            self.own.get("row_scores", {}),
            against.get("row_scores", {}) if self.champion else None,
            rule.max_task_drop,
            rule.confidence,
            plan.spec.seed,
            aggregates(self.own, against),
        )
        if self.champion and "champion" not in self.scorecards:
            if trouble := self.production.trouble_with(self.champion["version"]):
                todo = f"`alter promote {plan.spec.name} challenger --reason TEXT` makes this one champion all the same"
                return replace(decision, reason=f"the champion cannot be compared ({trouble}); {todo}")
        if self.champion and another_split(plan, self.champion):
            more = (
                f"; the split is another than that of version {self.champion['version']}, which may have learnt from "
                "some of these test rows"
            )
            return replace(decision, reason=decision.reason + more)
        return decision

    def tags(self) -> dict[str, str]:
        """What one looks a version up by."""
        plan = self.production.plan
        return {
            "data_digest": self.production.rows.digest,
            "spec_digest": plan.spec.digest,
            SPLIT: json.dumps(plan.split_keys),
            "code": code_of("run"),
            "backbone": self.production.backbone.source,
            "macro": f"{self.own['macro']['value']:.6f}",
            "quality": self.quality.outcome,
        }

    @property
    def opening(self) -> dict[str, float]:
        """Macro scores on validation rows right "before" the gates open and with them "opened"; empty where none do."""
        return {when: score for stage in self.stages.values() for when, score in stage.opening.items()}

    def card_facts(self) -> CardFacts:
        """Everything that the card says, but for the decision."""
        spec, rows, backbone = self.production.plan.spec, self.production.rows, self.production.backbone
        results = [stage.result for stage in self.stages.values()]
        profile, by_task = self.quality.profile, self.last.result.validation.by_task
        return {
            "domain": spec.name,
            "description": spec.description,
            "created": self.created,
            "tasks": {
                task.name: {
                    "type": task.type,
                    "description": task.description,
                    "licence": task.licence,
                    "rows": rows.tasks[task.name]["rows"],
                    "labels": rows.labels.get(task.name, ()),
                    "source": shown_source(rows.tasks[task.name]["sources"]["source"]),
                    "digest": self.production.task_digests[task.name],
                    **({"origin": self.origins[task.name]} if task.name in self.origins else {}),
                }
                for task in spec.tasks
            },
            "scorecards": self.scorecards,
            "champion_version": self.champion["version"] if self.champion else None,
            "data": {
                "digest": rows.digest,
                "quality": {"outcome": self.quality.outcome, "warnings": self.quality.warnings},
            },
            "backbone": {
                "model": backbone.source,
                "revision": backbone.revision,
                "licence": spec.backbone.licence,
                "digest": backbone.digest,
                "parameters": backbone.parameters,
                "notes": backbone.notes,
            },
            "parameters": {
                "total": max(one.cost.total_parameters for one in results),
                "trained": trained_in_all(one.cost.trained_parts for one in results),
            },
            "costs": {name: stage.cost for name, stage in self.stages.items()},
            "opening": self.opening,
            **({} if by_task is None else {"by_task": {name: at.state for name, at in by_task.items()}}),
            "training": {name: _losses(stage.folder) for name, stage in self.stages.items()},
            "profile": profile,
            "lengths": {name: of_task["token_counts"] for name, of_task in profile.items()},
            "gates": self.last.result.gates,
            "versions": {
                "run key": self.production.run_key,
                "spec digest": spec.digest,
                "code": f"{installed('alter-factory')}+{code_of('run')}",
                "MLflow run": self.run_id,
            },
        }


def another_split(plan: Plan, version: Version) -> bool:
    """Whether rows that `version` learnt from may be test rows now, or the other way round."""
    try:
        before = dict(json.loads(version["tags"].get(SPLIT, "{}")))
    except (TypeError, ValueError):  # of others
        before = {}
    return any(before.get(task, key) != key for task, key in plan.split_keys.items())


def _losses(stage: Path) -> list[dict[str, float]]:
    return [{"step": row["step"], "loss": row["loss"]} for row in step_rows(stage / "metrics.jsonl")]
