"""The stores of a production: where they lie, and the versions that a command asks them for."""

from pathlib import Path

import pytest

from alter_core.workspace import Workspace
from flows.production.stores import Stores, need_versions
from registry.errors import RegistryInputError
from tests.registry.conftest import Store


def test_all_versions_that_are_not_there_are_told_at_once(
    store: Store, parts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    store.register(parts, "k1")
    need_versions("tiny", ("1", "1"))
    with pytest.raises(RegistryInputError, match=r"'98'(.|\n)*'99'") as caught:
        need_versions("tiny", ("98", "99"))
    assert len(caught.value.problems) == 2
    with pytest.raises(RegistryInputError, match=r"^tiny has no version or alias '99'"):
        need_versions("tiny", ("1", "99"))


@pytest.mark.parametrize("own", [True, False], ids=["the workspace's own", "another database"])
def test_what_runs_leave_beside_a_database_lies_in_the_workspace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    workspace = Workspace(store.folder.parent if own else tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert (store.uri == workspace.mlflow_uri) == own
    stores = Stores(workspace, "tiny")
    experiment = store.models.client.get_experiment(stores.tracker.experiment_id)
    assert experiment.artifact_location == workspace.mlflow_artifacts.as_uri()
