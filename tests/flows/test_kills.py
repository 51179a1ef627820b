"""A run that is killed at any moment is made good by the next one. ALTER_KILLS sets how often this is tried."""

import os
from pathlib import Path

import pytest

from tests.flows.kills import kill_often

pytestmark = pytest.mark.server


def test_after_a_kill_at_any_moment_the_next_run_completes(tmp_path: Path, tiny_backbone: Path) -> None:
    kills = int(os.environ.get("ALTER_KILLS", "1"))
    found = kill_often(tmp_path, tiny_backbone, kills, seed=int(os.environ.get("ALTER_KILLS_SEED", "0")))
    assert len(found) == kills
