import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alter_core.workspace import Workspace


def test_a_workspace_is_the_same_wherever_it_is_mounted_and_a_copy_is_another(tmp_path: Path) -> None:
    home = Workspace(tmp_path / "home")
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: home.identity, range(8)))
    home.home.rename(tmp_path / "mounted")
    assert found == {Workspace(tmp_path / "mounted").identity}
    shutil.copytree(tmp_path / "mounted", tmp_path / "copy")
    assert Workspace(tmp_path / "copy").identity not in found
