"""What a task's training rows are like, in a few numbers, and how far they are from a champion's (drift)."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from alter_core.text import UNSPACED

PROFILED = 20_000  # training rows that a profile looks at, the first in order of hash: a fair and stable sample
WORDS = 500
MOVED = 5  # outcomes that a report names
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_EDGES = tuple(round(2 ** (k / 2)) for k in range(4, 29))  # of length bins, in tokens
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Shares = Literal["labels", "length_bins", "words"]
"""What a profile holds as outcome -> share."""
COMPARED: Mapping[str, Shares] = {"labels": "labels", "input lengths": "length_bins", "words": "words"}
"""How messages call what is compared with a champion's."""


class Profile(TypedDict, total=False):
    """A task's training rows, and how many test rows there are where they are a source of their own."""

    rows: int
    test_rows: int
    labels: dict[str, float]
    input_tokens: dict[str, int]
    target_tokens: dict[str, int]
    token_counts: dict[str, dict[str, int]]
    length_bins: dict[str, float]
    words: dict[str, float]


def profile(
    inputs: Sequence[str], input_tokens: Sequence[int], target_tokens: Sequence[int], labels: Mapping[str, int]
) -> Profile:
    """JSON-able numbers: label shares, token lengths, and the commonest words with their shares.

    `input_tokens` and `target_tokens` are lengths in tokens; empty where no tokenizer was at hand.
    """
    words: Counter[str] = Counter()
    for text in inputs[:PROFILED]:
        words.update(_WORD.findall(text.lower()))
    total = sum(words.values()) or 1
    bins = Counter(bisect_right(_EDGES, length) for length in input_tokens)
    labelled = sum(labels.values()) or 1
    return {
        "rows": len(inputs),
        "labels": {label: count / labelled for label, count in sorted(labels.items())},
        "input_tokens": quantiles(input_tokens),
        "target_tokens": quantiles(target_tokens),
        "token_counts": {"input": _counts(input_tokens), "target": _counts(target_tokens)},
        "length_bins": {str(k): bins[k] / len(input_tokens) for k in sorted(bins)} if input_tokens else {},
        "words": {
            word: count / total for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:WORDS]
        },
    }


def _counts(lengths: Sequence[int]) -> dict[str, int]:
    """Length -> rows, shortest first."""
    return {str(length): rows for length, rows in sorted(Counter(lengths).items())}


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Quantile -> value; empty for no values."""
    ordered = sorted(values)
    return {f"{q:g}": ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in QUANTILES if ordered}


def drift(now: Profile, champion: Profile) -> dict[str, float]:
    """Total variation distance (0: alike, 1: nothing in common) of label shares, input lengths and common words."""
    found = {}
    for name, key in COMPARED.items():
        if now.get(key) and champion.get(key):
            found[name] = total_variation(now[key], champion[key])
    return found


def total_variation(one: Mapping[str, float], two: Mapping[str, float]) -> float:
    """Half the sum of absolute differences; what either leaves out of 1 is one further outcome."""
    rest = abs(sum(one.values()) - sum(two.values()))
    return (sum(abs(one.get(k, 0.0) - two.get(k, 0.0)) for k in one.keys() | two.keys()) + rest) / 2


def largest_changes(now: Profile, champion: Profile, key: Shares) -> list[str]:
    """The outcomes whose shares moved most, for the report."""
    one, two = now[key], champion[key]
    moved = sorted(one.keys() | two.keys(), key=lambda k: (-abs(one.get(k, 0.0) - two.get(k, 0.0)), k))
    return [f"{k} {two.get(k, 0.0):.1%} to {one.get(k, 0.0):.1%}" for k in moved[:MOVED]]
