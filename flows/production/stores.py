"""Where a workspace's MLflow store and registry are, and what commands read there."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from alter_core.errors import AlterError, WorkspaceError
from alter_core.process import stop_tree
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace
from flows.production.plan import find_domain
from registry.card import render_card
from registry.errors import RegistryInputError, without_password
from registry.facts import CardFacts, decided
from registry.models import ModelStore
from registry.store import is_server
from registry.tracking import Tracker
from registry.versions import Version

if TYPE_CHECKING:  # torch takes seconds to import, and most commands do without it
    from alter_core.inference.predict import Predictor


def tracking_uri(workspace: Workspace) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite store in the workspace, whose folder is made. Raises WorkspaceError where a
    link leads that store out of the workspace."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or workspace.mlflow_uri
    if uri == workspace.mlflow_uri:
        workspace.mlflow_store.parent.mkdir(parents=True, exist_ok=True)
        if not workspace.holds(workspace.mlflow_store):
            real = workspace.mlflow_store.resolve()
            raise WorkspaceError(
                f"{workspace.mlflow_store} leads by a link to {real}, outside of the workspace {workspace.home}, which "
                f"may be a copy of another: set MLFLOW_TRACKING_URI=sqlite:///{real} where that store is meant, or "
                "make the whole workspace (ALTER_HOME) a link"
            )
    return uri


def model_store(workspace: Workspace | None = None) -> ModelStore:
    """The registry of a workspace, unset: of the user's, or of the server that the environment names."""
    workspace = workspace or Workspace.default()
    return _opened(tracking_uri(workspace), workspace)


def _opened(uri: str, workspace: Workspace) -> ModelStore:
    return ModelStore(uri, None if is_server(uri) else workspace.mlflow_artifacts, workspace.downloads)


@dataclass(frozen=True)
class Stores:
    """MLflow's store as one run of a domain uses it: each side is opened at its first use, and once."""

    workspace: Workspace
    experiment: str
    """Where the MLflow runs go; a production's has its domain's name."""

    @cached_property
    def uri(self) -> str:
        return tracking_uri(self.workspace)

    @cached_property
    def models(self) -> ModelStore:
        return _opened(self.uri, self.workspace)

    @cached_property
    def tracker(self) -> Tracker:
        # A server has a place of its own; beside a database, whichever it is, MLflow would use the current folder.
        place = None if is_server(self.uri) else self.workspace.mlflow_artifacts.as_uri()
        return Tracker(self.uri, place, self.experiment)


def model_name(domain: str) -> str:
    """Name of a domain's registered model; a model may be there without its spec."""
    try:
        return load_domain(find_domain(domain)).name
    except AlterError:
        return domain


def load_predictor(domain: str, version: str) -> "Predictor":
    """The registered model, ready to answer. Raises RegistryError subclasses and BundleError."""
    from alter_core.inference.predict import Predictor

    return Predictor.from_bundle(model_store().bundle_path(model_name(domain), version))


def need_versions(domain: str, wanted: Sequence[str]) -> None:
    """Raises RegistryInputError with each of the versions or aliases that is not there."""
    store, name = model_store(), model_name(domain)
    missing: dict[str, None] = {}
    for which in wanted:
        try:
            store.get(name, which)
        except RegistryInputError as error:
            missing[str(error)] = None
    if missing:
        raise RegistryInputError.of(list(missing), f"{len(missing)} versions are not there")


def list_versions(domain: str | None) -> list[Version]:
    """Registered versions of one domain or of all, newest first."""
    return model_store().versions(model_name(domain) if domain else None)


def write_card(store: ModelStore, name: str, version: int, facts: CardFacts | None = None) -> str:
    """Write a version's card anew from the facts that were registered, or from `facts`, and the decision that its tags
    tell of; the card. Raises RegistryError where its files are gone."""
    card = render_card(decided(facts or store.facts(name, version), store.get(name, version)["tags"]))
    store.set_card(name, version, card)
    return card


def serve_ui(host: str, port: int) -> int:
    """MLflow's UI on this workspace's store until it is stopped; its exit code. Raises AlterError for a server's."""
    workspace = Workspace.default()
    uri = tracking_uri(workspace)
    model_store(workspace)  # a store that was copied or moved is told where its files lie now
    if is_server(uri):
        shown = without_password(uri)
        raise AlterError(f"MLFLOW_TRACKING_URI names a server, which has a UI of its own: open {shown} in a browser")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    command += ["--default-artifact-root", workspace.mlflow_artifacts.as_uri()]
    # Not as an argument, which every user of the machine can read: a database's URI may hold a password.
    server = subprocess.Popen(command, env={**os.environ, "MLFLOW_BACKEND_STORE_URI": uri})
    try:
        return server.wait()
    finally:
        stop_tree(server)
