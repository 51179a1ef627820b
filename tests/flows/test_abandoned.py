"""What killed runs leave behind belongs to their workspace."""

from pathlib import Path

import pytest

from flows.abandoned import workspace_tag
from flows.production.plan import Plan
from tests.conftest import tiny_spec, write_domain


def test_runs_of_another_workspace_have_another_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(write_domain(tmp_path / "tiny", tiny_spec(tmp_path)))
    tags = []
    for home in ("here", "here", "there"):
        monkeypatch.setenv("ALTER_HOME", str(tmp_path / home))
        tags.append(workspace_tag(Plan.read(file)))
    assert tags[0] == tags[1] != tags[2]
