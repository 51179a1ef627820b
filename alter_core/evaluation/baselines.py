"""Baselines that need no training: the majority class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from alter_core.spec import DomainSpec


def majority_targets(rows: Iterable[Mapping[str, Any]], spec: DomainSpec) -> dict[str, str]:
    """For each label task, its commonest target among training `rows` (mappings with task, target).

    Of several equally common ones, the first in order, so that the result does not hang on the rows' order.
    """
    counts: dict[str, Counter[str]] = {task.name: Counter() for task in spec.tasks if task.task_type.labelled}
    for row in rows:
        if row["task"] in counts:
            counts[row["task"]][str(row["target"])] += 1
    return {name: min(held, key=lambda t: (-held[t], t)) for name, held in counts.items() if held}
