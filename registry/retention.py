"""What may go: old versions and half-made models of a store. A plan first, and a dry run unless told otherwise."""

import logging
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.champions import CHAMPION
from registry.errors import RegistryInputError, reported
from registry.models import STARTED_FROM, ModelStore
from registry.places import local
from registry.registration import MODEL_TYPE
from registry.store import domain_lock
from registry.versions import MODEL_ID, Version, is_ours

DAY = 86_400.0
_COPY = re.compile(r"models:/([^/]+)/([0-9]+)")
log = logging.getLogger(__name__)


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
    stays: str = ""
    """Why it stays all the same; empty where it goes."""


def plan_removals(store: ModelStore, keep: int = 3) -> list[Removal]:
    """Versions of each domain beyond the newest `keep`, and models whose registration was never finished.

    A version under any alias stays, and so do the champion before the present one, which a rollback would need, and
    the versions that training of those went on from. What others registered in the same store is not looked at. A
    removal `stays` where another registered version names the same files, or where they lie outside of this workspace.
    Raises RegistryInputError for a negative `keep`.
    """
    if keep < 0:
        raise RegistryInputError(f"keep must be 0 or more versions, got {keep}")
    found = []
    users = _users(store)
    for domain in store.domains():
        # Of a registration that died first there is no version; what others registered is theirs.
        versions = [row for row in store.listed(domain) if is_ours(row)]
        history = store.earlier_champions(domain)
        safe = {row["version"] for row in versions if row["aliases"]} | set(history[-1:])
        if not any(CHAMPION in row["aliases"] for row in versions) and versions:
            safe |= {champion.version for champion in store.champions(domain)[-1:]}
        safe |= {row["version"] for row in versions[:keep]}
        starts = {row["version"]: str(row["tags"].get(STARTED_FROM, "")) for row in versions}
        safe |= {int(start) for version in list(safe) if (start := starts.get(version, "")).isdecimal()}
        for row in reversed(versions):
            if row["version"] not in safe:
                model = store.stored(row["model_id"])
                if model is None or model.model_type == MODEL_TYPE:  # another team's tags may have these names
                    found.append(
                        _removal(store, domain, row, model, f"older than the newest {keep}", users[row["model_id"]])
                    )
        for model in store.logged_models(domain):
            if model.model_type == MODEL_TYPE and model.model_id not in users and _is_left(model):
                found.append(_removal(store, domain, None, model, "its registration was never finished", set()))
    return found


def _removal(
    store: ModelStore, domain: str, row: Version | None, model: Any, reason: str, users: set[tuple[str, int]]
) -> Removal:
    number, model_id = (row["version"], row["model_id"]) if row else (None, str(model.model_id))
    return Removal(domain, number, model_id, reason, _size(store, model), _stays(store, domain, number, model, users))


def _stays(store: ModelStore, domain: str, number: int | None, model: Any, users: set[tuple[str, int]]) -> str:
    if others := sorted(users - {(domain, number)}):
        return f"its files are those of {', '.join(f'{name} version {version}' for name, version in others)} too"
    place = _place(store, model)
    if place is None:
        return ""
    if other := store.places.claimed(place, model.model_id):
        return f"its files are those of the store {other} too"
    if store.places.hold(place):
        return ""
    own = " or ".join(map(str, store.places.own))
    leads = f", which leads by a link to {place.resolve()}" if place.resolve() != place else ""
    return f"its files lie at {place}{leads}, outside of this workspace, which owns what lies in {own}"


def _users(store: ModelStore) -> dict[str, set[tuple[str, int]]]:
    """Stored model -> the registered versions, others' among them, that name its files.

    In MLflow's UI a stored model can be registered under a second name, a version be copied to another, and a domain be
    renamed.
    """
    with reported("list versions", store.tracking_uri):
        entities = store.registered()
    named = {(entity.name, int(entity.version)): entity for entity in entities}
    users: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for version, entity in named.items():
        texts, seen = [], {version}
        while entity is not None:
            texts += [str(entity.source), str(getattr(entity, "model_id", "")), entity.tags.get("model_id", "")]
            copied = _COPY.fullmatch(str(entity.source))
            origin = (copied[1], int(copied[2])) if copied else version
            entity = None if origin in seen else named.get(origin)
            seen.add(origin)
        for model_id in MODEL_ID.findall(" ".join(texts)):
            users[model_id].add(version)
    return users


def remove(store: ModelStore, removals: Sequence[Removal]) -> int:
    """Delete what a plan names, unless it stays or got an alias since; bytes that were freed. Raises RegistryError."""
    freed = 0
    for item in removals:
        if item.stays:
            continue
        with domain_lock(store.client, store.tracking_uri, item.domain):
            # Under the lock nothing is half-made: what is registered or aliased by now was not so when we planned.
            rows = [row for row in store.listed(item.domain) if row["model_id"] == item.model_id]
            if any(row["version"] != item.version or row["aliases"] for row in rows):
                continue
            with reported(f"remove {item.domain} {item.version or item.model_id}", store.tracking_uri):
                model = store.stored(item.model_id)
                place = _place(store, model)
                if place is not None and (not store.places.hold(place) or store.places.claimed(place, item.model_id)):
                    continue
                if rows:
                    store.client.delete_model_version(item.domain, str(item.version))
                if model is not None:
                    store.client.delete_logged_model(item.model_id)
            if place is not None:  # MLflow only marks a model as deleted; a server's files are its own to collect
                shutil.rmtree(place, onerror=_warn)
                freed += 0 if place.exists() else item.bytes
    return freed


def _warn(_: object, path: str, error: tuple[object, BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        log.warning("%s could not be removed: %s", path, error[1])


def _is_left(model: Any) -> bool:
    """Whether nobody works on an unregistered model any more: a young one may be on its way to the store."""
    failed = str(getattr(model.status, "value", model.status)) == "FAILED"
    return failed or bool(time.time() * 1000 - model.creation_timestamp > DAY * 1000)


def _place(store: ModelStore, model: Any) -> Path | None:
    """Folder of a model's files where they are for this caller to remove: on this machine, and no server's."""
    path = local(str(model.artifact_location)) if model is not None and store.places.own else None
    return path.parent if path is not None else None


def _size(store: ModelStore, model: Any) -> int:
    folder = _place(store, model)
    sizes = 0
    for file in folder.rglob("*") if folder else ():
        with suppress(FileNotFoundError):  # a run may work there
            sizes += file.stat().st_size if file.is_file() else 0
    return sizes
