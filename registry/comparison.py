"""Two versions of a domain side by side, from the scorecards that were stored with them."""

from collections.abc import Mapping
from typing import Any

from registry.promotion import decide

Scorecard = Mapping[str, Any]


def compare(
    first: Scorecard, second: Scorecard, max_task_drop: float, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Scores of two scorecards per task, and what the promotion rule says of `second` against `first`.

    Gives {"tasks": {task: {"metric", "first", "second", "difference", "rows"}}, "macro": {"first", "second"},
    "shared_rows": int, "decision": {"promote", "reason", "numbers"}}. Values are None where a side has no such task;
    `rows` counts the test rows that both scored: the rule looks at those alone, the scores shown are of all.
    """
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys([*first["tasks"], *second["tasks"]]):
        sides = [card["tasks"].get(name) for card in (first, second)]
        values = [None if side is None else float(side["metrics"][side["metric"]]["value"]) for side in sides]
        both = [value for value in values if value is not None]
        held = [set(card.get("row_scores", {}).get(name, ())) for card in (first, second)]
        tasks[name] = {
            "metric": next(side["metric"] for side in reversed(sides) if side is not None),
            "first": values[0],
            "second": values[1],
            "difference": both[1] - both[0] if len(both) == 2 else None,
            "rows": len(held[0] & held[1]),
        }
    decision = decide(second["row_scores"], first["row_scores"], max_task_drop, confidence, seed)
    return {
        "tasks": tasks,
        "macro": {"first": first["macro"]["value"], "second": second["macro"]["value"]},
        "shared_rows": sum(task["rows"] for task in tasks.values()),
        "decision": {"promote": decision.promote, "reason": decision.reason, "numbers": decision.numbers},
    }
