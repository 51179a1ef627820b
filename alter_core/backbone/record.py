"""alter_backbone.json: what was converted, written when all of it has been read back."""

import json
from pathlib import Path
from typing import Any

from alter_core.errors import BackboneError

RECORD = "alter_backbone.json"


def backbone_record(folder: Path) -> dict[str, Any]:
    """What was written at conversion: source, revision, digest, parameters, dtype, architecture, licence, notes, and
    the files with their sizes. Raises BackboneError."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{folder} is no converted backbone: {RECORD} cannot be read ({error})") from error
    return record


def backbone_digest(folder: Path) -> str:
    """Digest of a converted backbone: its weights, configuration and tokenizer. Raises BackboneError."""
    return str(backbone_record(folder)["digest"])


def is_converted(folder: Path) -> bool:
    """Whether `folder` is a converted backbone with all its files as long as they were written."""
    try:
        sizes = backbone_record(folder)["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (BackboneError, OSError, KeyError):
        return False
