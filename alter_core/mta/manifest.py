"""Manifest: what a bundle's bundle.json says, and whether every part is what it says. Needs no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypedDict

from alter_core.errors import BundleError

FORMAT = 1
MANIFEST = "bundle.json"


class LayerState(TypedDict):
    """All that an MTA layer holds besides tensors."""

    name: str
    columns: list[str]
    shared: int
    homes: list[int]
    mode: Literal["hard", "soft", "signed", "strength"]
    task_active: bool
    shared_active: bool
    shared_adapters: int
    banks: list[int]
    gate_parts: list[list[int]]


BackboneEntry = TypedDict(
    "BackboneEntry",
    {"place": str, "source": str | None, "class": str, "dtype": str, "digest": str, "tensors": dict[str, str]},
)
"""place: hold or refer; tensors: name -> digest, as before training."""


class BundleManifest(TypedDict):
    """bundle.json."""

    format: int
    config: dict[str, Any]
    """An MTAConfig, maybe of an earlier version."""
    tasks: list[str]
    layers: list[LayerState]
    backbone: BackboneEntry
    parts: dict[str, str]
    metadata: dict[str, Any]


def read_manifest(directory: Path) -> BundleManifest:
    """Return bundle.json after checking every part against it. Raises BundleError as `load_bundle` does."""
    path = Path(directory) / MANIFEST
    try:
        manifest: BundleManifest = json.loads(path.read_text(encoding="utf-8"))
        parts = dict(manifest["parts"])
        version = manifest["format"]
    except OSError as error:
        raise BundleError(
            f"{directory} is no bundle: cannot read {MANIFEST} ({error.strerror}); name the folder that holds it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{directory} is no bundle: {MANIFEST} is not what one holds; copy it anew") from error
    if version != FORMAT:
        raise BundleError(
            f"{directory} has bundle format {version}; this version reads {FORMAT}: use the version that wrote it"
        )
    present = [name for name in list_files(path.parent) if name != MANIFEST]
    problems = [f"{name}: missing" for name in sorted(parts.keys() - set(present))]
    problems += [f"{name}: not part of the bundle" for name in present if name not in parts]
    problems += [
        f"{name}: altered (its digest differs)"
        for name in present
        if name in parts and file_digest(path.parent / name) != parts[name]
    ]
    if problems:
        raise BundleError(f"{directory} cannot be trusted: copy the bundle anew", problems)
    return manifest


def bundle_digest(directory: Path) -> str:
    """Return the digest of a bundle: that of its bundle.json, which holds the digests of all parts."""
    return file_digest(Path(directory) / MANIFEST)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file; of a link, one that equals no file's."""
    if path.is_symlink():
        return "a link"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(directory: Path) -> list[str]:
    """Return every file below `directory`, relative and sorted; a link counts as a file, and is never followed."""
    return sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
