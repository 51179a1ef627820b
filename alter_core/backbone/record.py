"""alter_backbone.json: what was converted, written when all of it has been read back."""

import json
from pathlib import Path
from typing import TypedDict

from alter_core.errors import BackboneError

RECORD = "alter_backbone.json"


class BackboneRecord(TypedDict):
    """alter_backbone.json; `source` is as the spec names it, `files` have their sizes in bytes."""

    source: str
    revision: str | None
    digest: str
    parameters: int
    dtype: str
    architecture: str
    licence: str
    notes: list[str]
    files: dict[str, int]


def backbone_record(folder: Path) -> BackboneRecord:
    """What was written at conversion. Raises BackboneError."""
    try:
        record: BackboneRecord = json.loads((folder / RECORD).read_text(encoding="utf-8"))
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
