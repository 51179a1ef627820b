"""Two versions of a domain side by side, from the scorecards that were stored with them."""

from typing import TypedDict

import numpy as np

from registry.facts import DecisionFacts
from registry.promotion import Aggregate, Decision, decide
from registry.scorecard import Scorecard


class Sides(TypedDict):
    """A score of both versions; None where there is none to compare."""

    first: float | None
    second: float | None


class TaskSides(Sides):
    """One task of both versions."""

    metric: str
    difference: float | None
    rows: int
    """Test rows that both scored: the rule looks at those alone, the scores shown are of all."""


class Comparison(TypedDict):
    """Two versions side by side."""

    tasks: dict[str, TaskSides]
    macro: Sides
    shared_rows: int
    decision: DecisionFacts
    """What the promotion rule says of the second."""


def compare(
    first: Scorecard, second: Scorecard, max_task_drop: float, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Scores of two scorecards per task, and what the promotion rule says of `second` against `first`.

    Values are None where a side has no such task, or scores it by another metric; those of the macro where the two do
    not have the same tasks and metrics.
    """
    tasks: dict[str, TaskSides] = {}
    metrics, before = ({name: task["metric"] for name, task in card["tasks"].items()} for card in (second, first))
    alike = metrics == before
    other = {name: (metric, before[name]) for name, metric in metrics.items() if before.get(name, metric) != metric}
    for name in dict.fromkeys([*first["tasks"], *second["tasks"]]):
        sides = [card["tasks"].get(name) for card in (first, second)]
        if name in other:
            sides[0] = None
        values = [None if side is None else float(side["metrics"][side["metric"]]["value"]) for side in sides]
        both = [value for value in values if value is not None]
        held = [set(card.get("row_scores", {}).get(name, ())) for card in (first, second)]
        tasks[name] = {
            "metric": next(side["metric"] for side in reversed(sides) if side is not None),
            "first": values[0],
            "second": values[1],
            "difference": both[1] - both[0] if len(both) == 2 else None,
            "rows": 0 if name in other else len(held[0] & held[1]),
        }
    ours, theirs = ({k: v for k, v in card.get("row_scores", {}).items() if k not in other} for card in (second, first))
    if other and not ours.keys() & theirs.keys():
        decision = Decision(False, "no task is scored by the same metric on both sides")
    else:
        decision = decide(ours, theirs, max_task_drop, confidence, seed, aggregates(second, first))
    reason = decision.reason
    for name, (metric, former) in other.items():
        reason += f"; {name} is not compared: it is scored by {metric}, and was by {former}"
    return {
        "tasks": tasks,
        "macro": {
            "first": first["macro"]["value"] if alike else None,
            "second": second["macro"]["value"] if alike else None,
        },
        "shared_rows": sum(task["rows"] for task in tasks.values()),
        "decision": {"promote": decision.promote, "reason": reason, "numbers": decision.numbers},
    }


def aggregates(candidate: Scorecard, champion: Scorecard) -> dict[str, Aggregate]:
    """Tasks of both whose score is no mean over rows, such as macro_f1, as `decide` takes them: where both sides scored
    the same rows."""
    found: dict[str, Aggregate] = {}
    for name, ours in candidate["tasks"].items():
        theirs, metric = champion["tasks"].get(name), ours["metric"]
        rows = [card.get("row_scores", {}).get(name, {}) for card in (candidate, champion)]
        if theirs is None or theirs["metric"] != metric or not rows[0] or rows[0].keys() != rows[1].keys():
            continue
        values = [side["metrics"][metric]["value"] for side in (ours, theirs)]
        means = [np.mean(list(each.values())) for each in rows]
        if not np.allclose(values, means, atol=1e-6):
            found[name] = {"metric": metric, "candidate": values[0], "champion": values[1]}
    return found
