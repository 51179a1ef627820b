"""Checkouts of public repositories at one commit each: fetched where they are missing, checked before they are read.

A file is read only where it is, byte for byte, the one of its commit: a line end that a git setting changed would make
other rows.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alter_core.errors import DataError


@dataclass(frozen=True)
class Repository:
    """A public repository as the rows of a domain use it."""

    name: str
    """owner/name."""
    commit: str
    """All 40 digits: a server gives a commit by its whole name alone."""
    licence: str
    """The file that states under which licence the rows may be used."""
    licence_digest: str
    """SHA-256 of that file as we read it. A commit with another text needs somebody who reads it."""
    reads: tuple[str, ...]
    """The files that rows are made from."""

    @property
    def folder(self) -> str:
        return self.name.replace("/", "__")


@dataclass(frozen=True)
class Checkout:
    repository: Repository
    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / name

    @property
    def licence(self) -> Path:
        return self.file(self.repository.licence)

    def problems(self) -> Iterator[str]:
        """What keeps this checkout from being read, a line each."""
        wanted = self.repository
        if not (self.folder / ".git").exists():
            yield f"{self.folder}: no checkout of {wanted.name}; `make domains` fetches it"
            return
        try:
            at = _git(self.folder, "rev-parse", "HEAD").strip()
            if at != wanted.commit:
                yield (
                    f"{self.folder}: at commit {at[:12]}, and the rows are made from {wanted.commit[:12]}; move the "
                    "folder away, and it is fetched"
                )
                return
            listed = _git(self.folder, "ls-tree", "-r", "-z", "HEAD")
        except DataError as error:
            yield str(error)
            return
        blobs = {
            name: meta.split()[2] for meta, _, name in (line.partition("\t") for line in listed.split("\0")) if name
        }
        for name in (wanted.licence, *wanted.reads):
            if name not in blobs:
                yield (
                    f"{wanted.name}: has no {name} at {wanted.commit[:12]}: it was moved or renamed; the domain's "
                    "rows.py names the files that it reads"
                )
            elif _blob(self.file(name)) != blobs[name]:
                yield f"{self.file(name)}: missing, or not as {wanted.commit[:12]} has it; move {self.folder} away"
        if self.licence.is_file() and hashlib.sha256(self.licence.read_bytes()).hexdigest() != wanted.licence_digest:
            yield (
                f"{self.licence}: not the licence that the rows were made under; read it, and put its SHA-256 into "
                f"the domain's rows.py if they may still be"
            )


def fetch(repository: Repository, folder: Path, remote: str) -> Checkout:
    """The commit's files that rows are made from, and no history, from `<remote>/<owner>/<name>.git` into `folder`.

    Whole or not at all. Raises DataError, transient, with git's own words.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _git(scratch, "init", "--quiet")
        for key, value in (("core.autocrlf", "false"), ("core.symlinks", "false"), ("advice.detachedHead", "false")):
            _git(scratch, "config", key, value)
        _git(scratch, "remote", "add", "origin", f"{remote.rstrip('/')}/{repository.name}.git")
        # A server that cannot leave files out sends all of them, which is slower and no other result.
        _git(scratch, "fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", repository.commit)
        _git(
            scratch, "sparse-checkout", "set", "--no-cone", *(f"/{n}" for n in (repository.licence, *repository.reads))
        )
        _git(scratch, "checkout", "--quiet", "--detach", repository.commit)
        scratch.rename(folder)
    except DataError as error:
        raise DataError(
            f"{repository.name} cannot be fetched from {remote}: {error.headline}", transient=True
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Checkout(repository, folder)


def _git(folder: Path, *arguments: str) -> str:
    try:
        ended = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except FileNotFoundError:
        raise DataError("git is not installed; it fetches the public files") from None
    if ended.returncode:
        said = " ".join(ended.stderr.split()) or f"exit code {ended.returncode}"
        raise DataError(f"{folder}: git {arguments[0]}: {said}")
    return ended.stdout


def _environment() -> dict[str, str]:
    """This process's, without what makes git work on another repository, as inside a hook, or ask for a password."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    return kept | {"GIT_TERMINAL_PROMPT": "0"}


def _blob(file: Path) -> str | None:
    """The name that git gives the content of a file; None without a plain file."""
    if file.is_symlink() or not file.is_file():
        return None
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
