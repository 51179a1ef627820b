"""Manifest: what a bundle's bundle.json says, and whether every part is what it says. Needs no torch."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from alter_core.errors import BundleError
from alter_core.spec.stage import GateMode
from alter_core.whole import digest_of_file, written_whole

FORMAT = 1
MANIFEST = "bundle.json"
TEMPERATURES, ABSTAIN_BELOW = "temperatures", "abstain_below"
"""In the metadata of a registered bundle: by task, as a Predictor has them."""


class LayerState(TypedDict):
    """All that an MTA layer holds besides tensors."""

    name: str
    columns: list[str]
    shared: int
    homes: list[int]
    mode: GateMode
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


def copy_with(directory: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    """Copy a bundle to `target`, which appears whole or not at all, with more in its metadata: it is another bundle
    then. Parts are linked where the disk can, and take no room."""
    with written_whole(target) as work:
        shutil.copytree(directory, work, copy_function=_linked)
        manifest = json.loads((work / MANIFEST).read_text(encoding="utf-8"))
        manifest["metadata"] |= metadata
        (work / MANIFEST).unlink()  # which may be that of `directory`
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def bundle_digest(directory: Path) -> str:
    """Return the digest of a bundle: that of its bundle.json, which holds the digests of all parts."""
    return file_digest(Path(directory) / MANIFEST)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file; of a link, one that equals no file's."""
    return "a link" if path.is_symlink() else digest_of_file(path)


def list_files(directory: Path) -> list[str]:
    """Return every file below `directory`, relative and sorted; a link counts as a file, and is never followed."""
    return sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
