"""The room in short: the two-stage model and its rivals become specs of one budget, to train at the same rates."""

from pathlib import Path

import pytest

from alter_core.ablation.arms import make_arms
from alter_core.backbone import resolve_backbone
from alter_core.spec import DomainSpec
from alter_core.workspace import Workspace
from tests.conftest import tiny_spec


def test_arms_are_specs_of_equal_length(tiny_backbone: Path, tmp_path: Path) -> None:
    spec = DomainSpec.model_validate(tiny_spec(tiny_backbone))
    arms = {arm.name: arm for arm in make_arms(spec, resolve_backbone(spec.backbone, Workspace(tmp_path)), 100)}
    ours, rival = arms["mta_two_stages"], arms["plain_multi_task"]
    assert ours.spec == spec
    assert rival.spec is not None
    assert rival.spec.stage_one.steps == 6 + 3  # as many as both stages together
    assert arms["zero_shot"].spec is None
    assert rival.at(rate=5e-3, seed=2).stage_one.learning_rate == pytest.approx(5e-3)
