"""What `alter gc` takes of a workspace's caches."""

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from alter_core.workspace import Workspace
from flows.production.caches import plan_caches, remove_caches
from flows.production.plan import ABLATION_LOCK, LOCK


def filled(workspace: Workspace, *folders: Path, days: float) -> None:
    """Make each folder with one file of 1,000 bytes that was last used so many days ago."""
    for folder in folders:
        folder.mkdir(parents=True)
        file = folder / "part"
        file.write_bytes(b"x" * 1000)
        then = time.time() - days * 86_400
        os.utime(file, (then, then))
        os.utime(folder, (then, then))


def test_only_what_nothing_has_used_for_long_goes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    old = [workspace.trunk_cache / "a", workspace.datasets / "b", workspace.runs / "tiny" / "stage_one-c"]
    new = [workspace.trunk_cache / "d", workspace.runs / "tiny" / "stage_one-e"]
    kept = [workspace.backbones / "f", workspace.mlflow_artifacts / "g"]
    filled(workspace, *old, *kept, days=40)
    filled(workspace, *new, days=1)
    plan = plan_caches(workspace, 30)
    assert {cache.path for cache in plan} == set(old)
    assert all(39 < cache.unused_days < 41 for cache in plan)
    assert all(folder.exists() for folder in old)
    assert remove_caches(workspace, plan) == 3000
    assert not any(folder.exists() for folder in old)
    assert all(folder.exists() for folder in (*new, *kept))


def test_a_domain_that_is_being_produced_keeps_its_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.runs / "tiny" / "stage_one-a"
    filled(workspace, folder, days=40)
    with FileLock(workspace.runs / "tiny" / ".lock"):
        assert remove_caches(workspace, plan_caches(workspace, 30)) == 0
    assert folder.exists()


def test_an_ablation_that_works_keeps_its_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.runs / "tiny" / "ablation"
    filled(workspace, folder, days=40)
    plan = plan_caches(workspace, 30)
    with FileLock(folder / ABLATION_LOCK):
        assert remove_caches(workspace, plan) == 0
    assert remove_caches(workspace, plan) == 1000


@pytest.mark.parametrize("lock", [LOCK, f"ablation/{ABLATION_LOCK}"])
def test_what_domains_share_stays_while_one_works(
    tmp_path: Path, lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    shared = [workspace.datasets / "a", workspace.trunk_cache / "b", workspace.downloads / "c"]
    idle, busy = workspace.runs / "idle" / "stage_one-a", workspace.runs / "tiny" / "ablation"
    filled(workspace, *shared, idle, busy, days=40)
    plan = plan_caches(workspace, 30)
    with FileLock(workspace.runs / "tiny" / lock):
        assert remove_caches(workspace, plan) == 1000
    assert all(folder.exists() for folder in (*shared, busy))
    assert not idle.exists()
    assert "the 3 data sets, trunk caches and downloads stay, because a run of tiny" in capsys.readouterr().err
    left = [cache for cache in plan if cache.path.exists()]
    assert remove_caches(workspace, left) == 4000
    assert not any(folder.exists() for folder in (*shared, busy))
    assert capsys.readouterr().err == ""


def test_files_that_vanish_while_they_are_counted_are_no_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.datasets / "a"
    filled(workspace, folder, days=40)
    (folder / "gone").symlink_to(folder / "vanished")  # is listed, and is not there when it is looked at
    os.utime(folder, (time.time() - 40 * 86_400,) * 2)
    assert [cache.bytes for cache in plan_caches(workspace, 30)] == [1000]


def test_what_was_only_read_of_late_is_in_use(tmp_path: Path) -> None:
    workspace, now = Workspace(tmp_path), time.time()
    folder = workspace.trunk_cache / "a"
    filled(workspace, folder, days=90)
    os.utime(folder / "part", (now, now - 90 * 86_400))
    assert plan_caches(workspace, 30) == []
