"""A run that is killed at any moment is made good by the next one. ALTER_KILLS sets how often this is tried."""

import os
import signal
from pathlib import Path

import pytest

from flows.production.exit_codes import TERMINATED
from tests.flows.kills import SECONDS, Victim, kill_often
from tests.flows.server import wait_for

pytestmark = pytest.mark.server


def test_after_a_kill_at_any_moment_the_next_run_completes(tmp_path: Path, tiny_backbone: Path) -> None:
    kills = int(os.environ.get("ALTER_KILLS", "1"))
    found = list(kill_often(tmp_path, tiny_backbone, kills, seed=int(os.environ.get("ALTER_KILLS_SEED", "0"))))
    assert len(found) == kills


def test_a_run_that_is_asked_to_stop_leaves_nothing_running(tmp_path: Path, tiny_backbone: Path) -> None:
    victim = Victim(tmp_path, tiny_backbone)
    run = victim.start()
    wait_for(lambda: list((tmp_path / "alter" / "runs" / "tiny").glob("stage_one-*/job.json")), "it trains", SECONDS)
    run.send_signal(signal.SIGTERM)
    assert run.wait(SECONDS) == TERMINATED
    assert victim.left() == []
    assert victim.open_runs() == []
