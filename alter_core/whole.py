"""Files that appear whole or not at all, results that are there once their file is, and digests of contents."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from alter_core.errors import WorkspaceError

DIGEST_LENGTH = 16


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; when the block ends well, it takes the target's name in one step.

    The block may make a file or a folder. It is on the disk before it gets its name: a power cut leaves no empty file
    there. A folder that stands at `target` is replaced, in two steps; on an error nothing stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise WorkspaceError(
            f"cannot write under {target.parent}: {error.strerror}; name a folder that you may write to (ALTER_HOME "
            "names the workspace)"
        ) from error
    try:
        made = scratch / target.name
        yield made
        _as_readable_as_their_folder(made)
        for path in [made, *made.rglob("*")] if made.is_dir() else [made]:
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if target.is_dir() and not target.is_symlink():
            target.rename(scratch / "replaced")
        made.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_readable_as_their_folder(made: Path) -> None:
    """safetensors makes its files readable by their owner alone, whatever the umask: others serve these models."""
    for path in made.rglob("*") if made.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | made.stat().st_mode & 0o044)


def write_text(target: Path, text: str) -> None:
    """Write `text`, whole or not at all."""
    with written_whole(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


class Result:
    """Base of frozen dataclasses that stand in a JSON file: what one piece of work ended with.

    The one rule for "this work is done": its result is written when everything else is whole, itself whole or not at
    all, and `read` finds it, with the fields that it must have.
    """

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # of what is made from this

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The result that `to_json` gave; what it does not know is left out. Raises ValueError where parts lack."""
        found: Self = _reader(cls).validate_python(value)  # type: ignore[arg-type]  # a class is hashable
        return found

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path, **wanted: object) -> Self | None:
        """The result in the file `path`; None where there is none, half of one, or one whose fields are not `wanted`:
        that of other work, whose key it holds."""
        try:
            found = cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        return found if all(getattr(found, name) == value for name, value in wanted.items()) else None


@cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def digest_of(*values: Any) -> str:
    """Short sha256 of JSON-able values; equal values give equal digests on every machine."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def digest_of_file(path: Path) -> str:
    """Whole sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_files(paths: dict[str, Path]) -> str:
    """Short sha256 over named files: names and contents, in name order."""
    whole = hashlib.sha256()
    for name in sorted(paths):
        whole.update(f"{name}\0{digest_of_file(paths[name])}\n".encode())
    return whole.hexdigest()[:DIGEST_LENGTH]
