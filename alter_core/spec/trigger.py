"""TriggerSpec: when rows that changed start a run."""

from typing import Literal

from alter_core.spec.section import Section, Share
from alter_core.spec.span import Span


class TriggerSpec(Section):
    """Rows that changed start a run; `trigger: data` takes the defaults."""

    every: Literal["15m", "1h", "6h", "1d"] = "1h"
    """How often the sources are looked at; nothing is trained for that."""
    changed: Share = 0.1
    """Share of rows that must be new or gone since the champion's."""
    rest: Span = "6h"
    """At least so long from one start to the next; starts that follow each other closely double it, up to a week."""
