"""Which versions were champion, in order.

MLflow knows who has an alias now: neither who had it before, nor who moved it. So the order stands in a tag of the
registered model, and a champion that the tag does not know was made so outside of here, in MLflow's UI say: it is noted
when a command first sees it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHAMPION = "champion"
ORDER = "champions"  # the tag: oldest first, the present one last; ~ was made outside, > is about to be
BEFORE = "champion_history"  # its forerunner, without the present one
LENGTH = 100  # champions before the present one that are remembered
_ENTRY = re.compile(r"([~>]?)([0-9]+)")


@dataclass(frozen=True)
class Champion:
    """One champion of a domain."""

    version: int
    outside: bool = False
    """Whether the alias was moved outside of alter."""


def champions(tags: Mapping[str, str], now: int | None) -> list[Champion]:
    """All that are known, oldest first, and last the present one.

    tags: of the registered model. now: the version under the alias, None where there is none: then the last is the one
    that it was taken from.
    """
    known = [found for part in tags.get(ORDER, "").split(",") if (found := _ENTRY.fullmatch(part.strip()))]
    order = [Champion(int(found[2]), found[1] == "~") for found in known]
    if known and known[-1][1] == ">" and order[-1].version != now:
        order.pop()  # a promotion that was killed before it moved the alias
    if ORDER not in tags:
        order = [
            Champion(int(found[2])) for part in tags.get(BEFORE, "").split(",") if (found := _ENTRY.fullmatch(part))
        ]
        if order and order[-1].version == now:
            order.pop()
    if now is not None and (not order or order[-1].version != now):
        order.append(Champion(now, outside=ORDER in tags))
    return order


def written(order: Sequence[Champion], coming: int | None = None) -> str:
    """The tag. coming: a version that the alias is about to be moved to."""
    texts = [f"{'~' if champion.outside else ''}{champion.version}" for champion in order[-LENGTH - 1 :]]
    return ",".join([*texts, *([] if coming is None else [f">{coming}"])])


def is_noted(tags: Mapping[str, str], now: int) -> bool:
    """Whether the tag knows the present champion."""
    return ORDER in tags and written(champions(tags, now)) in (tags[ORDER], tags[ORDER].replace(">", ""))
