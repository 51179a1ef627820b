"""What may go: old versions and half-made models of a store. A plan first, and a dry run unless told otherwise."""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from registry.errors import RegistryInputError, reported
from registry.models import MODEL_TYPE, STARTED_FROM, ModelStore
from registry.store import domain_lock

DAY = 86_400.0


@dataclass(frozen=True)
class Removal:
    """One thing that may go, and why."""

    domain: str
    version: int | None
    """None: a logged model that never became a version."""
    model_id: str
    reason: str
    bytes: int
    """On the local disk; 0 where the store is remote, or a person deleted the model, and its size is not known."""


def plan_removals(store: ModelStore, domains: Sequence[str] | None = None, keep: int = 3) -> list[Removal]:
    """Versions of each domain beyond the newest `keep`, and models whose registration was never finished.

    A version under any alias stays, and so do the champion before the present one, which a rollback would need, and
    the versions that training of those went on from. What others registered in the same store is not looked at.
    Raises RegistryInputError for a negative `keep`, RegistryError for an unknown domain.
    """
    if keep < 0:
        raise RegistryInputError(f"keep must be 0 or more versions, got {keep}")
    found = []
    for domain in store.domains() if domains is None else domains:
        # Of a registration that died first there is no version; what others registered has no run key.
        versions = [row for row in store.listed(domain) if "run_key" in row["tags"]]
        history = store.earlier_champions(domain)
        safe = {row["version"] for row in versions if row["aliases"]} | set(history[-1:])
        safe |= {row["version"] for row in versions[:keep]}
        starts = {row["version"]: row["tags"].get(STARTED_FROM) for row in versions}
        safe |= {int(start) for version in list(safe) if (start := starts.get(version))}
        for row in reversed(versions):
            if row["version"] not in safe:
                model = _stored(store, row["model_id"])
                found.append(
                    Removal(domain, row["version"], row["model_id"], f"older than the newest {keep}", _size(model))
                )
        registered = {row["model_id"] for row in versions}
        for model in store.logged_models(domain):
            if model.model_type == MODEL_TYPE and model.model_id not in registered and _is_left(model):
                found.append(Removal(domain, None, model.model_id, "its registration was never finished", _size(model)))
    return found


def remove(store: ModelStore, removals: Sequence[Removal]) -> int:
    """Delete what a plan names, unless it got an alias since; bytes that were freed. Raises RegistryError."""
    freed = 0
    for item in removals:
        with domain_lock(store.client, store.tracking_uri, item.domain):
            # Under the lock nothing is half-made: what is registered or aliased by now was not so when we planned.
            rows = [row for row in store.listed(item.domain) if row["model_id"] == item.model_id]
            if any(row["version"] != item.version or row["aliases"] for row in rows):
                continue
            with reported(f"remove {item.domain} {item.version or item.model_id}", store.tracking_uri):
                model = _stored(store, item.model_id)
                place = _local(model)
                if rows:
                    store.client.delete_model_version(item.domain, str(item.version))
                if model is not None:
                    store.client.delete_logged_model(item.model_id)
            if place is not None:  # MLflow only marks a model as deleted; a server's files are its own to collect
                shutil.rmtree(place, ignore_errors=True)
                freed += item.bytes
    return freed


def _stored(store: ModelStore, model_id: str) -> Any:
    """MLflow's record of a model; None where a person has deleted it, which MLflow's UI offers."""
    from mlflow.exceptions import MlflowException

    with reported(f"read {model_id}", store.tracking_uri):
        try:
            return store.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def _is_left(model: Any) -> bool:
    """Whether nobody works on an unregistered model any more: a young one may be on its way to the store."""
    failed = str(getattr(model.status, "value", model.status)) == "FAILED"
    return failed or bool(time.time() * 1000 - model.creation_timestamp > DAY * 1000)


def _local(model: Any) -> Path | None:
    """Folder of a model's files when it lies on this machine."""
    if model is None:
        return None
    place = urlsplit(str(model.artifact_location))
    return Path(url2pathname(place.path)).parent if place.scheme in ("", "file") else None


def _size(model: Any) -> int:
    folder = _local(model)
    sizes = 0
    for file in folder.rglob("*") if folder else ():
        with suppress(FileNotFoundError):  # a run may work there
            sizes += file.stat().st_size if file.is_file() else 0
    return sizes
