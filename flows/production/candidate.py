"""Candidate: what one production has made and scored, before it is registered; the promotion rule and card read it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from alter_core.data.ingest import shown_source
from alter_core.process import step_rows
from alter_core.training.result import trained_in_all
from flows.production.plan import Plan, code_of
from registry.card import CardFacts, own_scorecard
from registry.comparison import aggregates
from registry.promotion import decide
from registry.versions import Version

Facts = dict[str, Any]
SPLIT = "split"  # tag of a version: what divided the rows of each task


@dataclass(frozen=True)
class Candidate:
    """One production's model with all that it was made of."""

    plan: Plan
    run_key: str
    data: Facts
    """Of steps.ingest and steps.validate."""
    backbone: Facts
    stages: Mapping[str, Facts]
    """Stage -> what steps.train gave, in order."""
    scorecards: Mapping[str, Mapping[str, Any]]
    """zero_shot, each stage, and champion where there is one -> scorecard."""
    champion: Version | None
    """The version that it is compared with."""
    started_from: int | None
    """The version whose weights training went on from; None: the backbone's."""

    @property
    def last(self) -> Facts:
        """Of the last stage, whose bundle is registered."""
        return self.stages[list(self.stages)[-1]]

    @property
    def own(self) -> Mapping[str, Any]:
        """The last stage's scorecard."""
        return self.scorecards[own_scorecard(self.scorecards)]

    def decide(self) -> Facts:
        """The promotion rule on its own and the champion's scores of the same test rows."""
        against = self.scorecards.get("champion", {"tasks": {}, "row_scores": {}})  # it has none of these tasks
        rule = self.plan.spec.promotion
        decision = decide(
            self.own["row_scores"],
            against["row_scores"] if self.champion else None,
            rule.max_task_drop,
            rule.confidence,
            self.plan.spec.seed,
            aggregates(self.own, against),
        )
        reason = decision.reason
        if self.champion and another_split(self.plan, self.champion):
            reason += (
                f"; the split is another than that of version {self.champion['version']}, which may have learnt from "
                "some of these test rows"
            )
        return {"promote": decision.promote, "reason": reason, "numbers": decision.numbers}

    def tags(self) -> dict[str, str]:
        """What one looks a version up by."""
        return {
            "data_digest": self.data["digest"],
            "spec_digest": self.plan.spec.digest,
            SPLIT: json.dumps(self.plan.split_keys),
            "code": code_of("run"),
            "backbone": self.backbone["source"],
            "macro": f"{self.own['macro']['value']:.6f}",
            "quality": self.data["quality"]["outcome"],
        }

    @property
    def opening(self) -> dict[str, float]:
        """Macro scores on validation rows right "before" the gates open and with them "opened"; empty where none do."""
        found = [facts["validation"]["opening"] for facts in self.stages.values()]
        return {when: score["macro"] for scores in found for when, score in scores.items()}

    def card_facts(self, run_id: str) -> CardFacts:
        """Everything that the card says, but for the decision. run_id: the MLflow run."""
        spec, data, backbone = self.plan.spec, self.data, self.backbone
        costs = {name: facts["cost"] for name, facts in self.stages.items()}
        quality = data["quality"]
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
                    "source": shown_source(data["tasks"][task.name]["sources"]["source"]),
                }
                for task in spec.tasks
            },
            "scorecards": self.scorecards,
            "champion_version": self.champion["version"] if self.champion else None,
            "data": {"digest": data["digest"], "quality": {k: quality[k] for k in ("outcome", "warnings")}},
            "backbone": {
                "model": backbone["source"],
                "revision": backbone["revision"],
                "licence": spec.backbone.licence,
                "digest": backbone["digest"],
                "parameters": backbone["parameters"],
            },
            "parameters": {
                "total": max(cost["total_parameters"] for cost in costs.values()),
                "trained": trained_in_all(cost["trained_parts"] for cost in costs.values()),
            },
            "costs": costs,
            "opening": self.opening,
            "training": {name: _losses(Path(facts["folder"])) for name, facts in self.stages.items()},
            "profile": quality["profile"],
            "lengths": {name: profile["token_counts"] for name, profile in quality["profile"].items()},
            "gates": self.last["gates"],
            "versions": {
                "run key": self.run_key,
                "spec digest": spec.digest,
                "code": f"{installed('alter-factory')}+{code_of('run')}",
                "MLflow run": run_id,
            },
        }


def another_split(plan: Plan, version: Version) -> bool:
    """Whether rows that `version` learnt from may be test rows now, or the other way round."""
    before = json.loads(version["tags"].get(SPLIT, "{}"))
    return any(before.get(task, key) != key for task, key in plan.split_keys.items())


def _losses(stage: Path) -> list[dict[str, float]]:
    return [{"step": row["step"], "loss": row["loss"]} for row in step_rows(stage / "metrics.jsonl")]


def read_scorecards(paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Scorecards by subject, from their files."""
    return {name: json.loads(Path(path).read_text(encoding="utf-8")) for name, path in paths.items()}
