"""The room in short: a job names a stage, its data and what it starts from; a bundle and what it cost come out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alter_core.mta import load_bundle
from tests.training.conftest import Domain


def test_a_stage_learns_and_leaves_a_bundle_for_the_next(
    domain: Domain, train: Callable[..., Any], tmp_path: Path
) -> None:
    one, log = train(domain.job(tmp_path / "one"))
    losses = one.validation.losses
    assert sum(losses["after"].values()) < sum(losses["before"].values())
    assert [row["step"] for row in log if row["phase"] == "train"][-1] == domain.spec.stage_one.steps
    two, _ = train(domain.job(tmp_path / "two", "stage_two", start=tmp_path / "one" / "bundle"))
    mta, _, metadata = load_bundle(tmp_path / "two" / "bundle")
    assert {layer.gate.mode for layer in mta.layers} == {"soft"}
    assert metadata["spec"]["name"] == "tiny"
    assert two.cost.trained_parameters < one.cost.trained_parameters
