"""Before a stage trains it is said how long it will take, and a disk that is too short is told."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from alter_core.errors import WorkspaceError
from alter_core.spec import StageSpec
from flows.production.forecast import forecast, need_disk
from flows.production.production import Backbone
from tests.flows.conftest import Produce, trained


def test_a_stage_is_expected_to_be_as_quick_as_the_last_of_its_domain(production: Produce) -> None:
    ours = production()
    stage = StageSpec(steps=600, rows_per_step=64)
    assert "no such stage of this domain was trained here yet" in forecast(ours, "stage_two", stage)
    ours.plan.run_folder("k").parent.mkdir(parents=True)
    trained(ours.plan.run_folder("stage_two-k"))  # 64 rows in a second
    assert forecast(ours, "stage_two", stage) == (
        "stage_two: 600 steps of 64 rows; about 10.0 minutes and 0.1 GB, as the last one took here on cpu"
    )
    assert "stage_one: 6 steps of 9 rows" in forecast(ours, "stage_one", StageSpec(epochs=2, rows_per_step=9))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_cannot_hold_a_version_is_told_before_anything_trains(
    production: Produce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\0" * 1_000_000)
    ours = production(backbone=Backbone(folder, "tiny", None, "b", 10))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 2_000_000))
    need_disk(ours)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 1_999_999))
    with pytest.raises(WorkspaceError, match=r"a version of tiny needs 2 MB and .* has 2 MB free: free some space"):
        need_disk(ours)
