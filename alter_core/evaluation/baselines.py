"""Baselines that need no training: the majority class."""

from collections import Counter
from collections.abc import Iterable, Mapping


def majority_targets(targets: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """For each label task, the commonest of its training `targets`.

    Of several equally common ones, the first by name, so that the result does not hang on the rows' order.
    """
    counts = {name: Counter(held) for name, held in targets.items()}
    return {name: min(held, key=lambda target: (-held[target], target)) for name, held in counts.items() if held}
