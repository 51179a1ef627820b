"""Outcome: what a production comes to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from registry.costs import Cost
from registry.scorecard import Scorecards, known_limits

Status = Literal["champion", "candidate", "waiting", "unchanged"]


@dataclass(frozen=True)
class Outcome:
    """What one production came to: a version that was made, or one that was there already."""

    domain: str
    status: Status
    version: int
    run_key: str
    seconds: float = 0.0
    aliases: tuple[str, ...] | None = None
    """Of a version that was there already."""
    reason: str | None = None
    """Why it was promoted or not. This and what follows: of a version that was made."""
    scorecards: Scorecards = field(default_factory=dict)
    """zero_shot, each stage, champion -> scorecard"""
    costs: Mapping[str, Cost] | None = None
    mlflow_run: str | None = None

    def to_json(self) -> str:
        """For programs: scorecards without rows, and what they say against the model."""
        brief = {
            name: {"tasks": {task: facts["metrics"] for task, facts in card["tasks"].items()}, "macro": card["macro"]}
            for name, card in self.scorecards.items()
        }
        limits = {"limits": known_limits(self.scorecards)} if self.scorecards else {}
        known = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps({**known, "scorecards": brief, **limits}, indent=2)
