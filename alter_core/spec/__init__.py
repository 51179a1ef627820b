"""A domain's spec: what a domain.yaml may say, and what it says wrong. Read without torch."""

from alter_core.spec.domain import BackboneSpec, DomainSpec, EvaluationSpec, PromotionSpec, SplitSpec
from alter_core.spec.mta import MTAConfig
from alter_core.spec.schedule import ScheduleSpec
from alter_core.spec.source import SOURCE_KINDS, SourceSpec
from alter_core.spec.stage import StageSpec
from alter_core.spec.task import ExpectationSpec, QualitySpec, TaskSpec
from alter_core.spec.trigger import TriggerSpec

__all__ = [
    "SOURCE_KINDS",
    "BackboneSpec",
    "DomainSpec",
    "EvaluationSpec",
    "ExpectationSpec",
    "MTAConfig",
    "PromotionSpec",
    "QualitySpec",
    "ScheduleSpec",
    "SourceSpec",
    "SplitSpec",
    "StageSpec",
    "TaskSpec",
    "TriggerSpec",
]
