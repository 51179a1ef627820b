"""A domain's spec: what a domain.yaml may say, and what it says wrong. Read without torch."""

from alter_core.spec.domain import BackboneSpec, DomainSpec, PromotionSpec
from alter_core.spec.schedule import ScheduleSpec
from alter_core.spec.source import SOURCE_KINDS, SourceSpec
from alter_core.spec.stage import StageSpec
from alter_core.spec.task import TaskSpec
from alter_core.spec.trigger import TriggerSpec

__all__ = [
    "SOURCE_KINDS",
    "BackboneSpec",
    "DomainSpec",
    "PromotionSpec",
    "ScheduleSpec",
    "SourceSpec",
    "StageSpec",
    "TaskSpec",
    "TriggerSpec",
]
