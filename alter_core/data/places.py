"""Which files a source means, and whether it may read them: only what it names, only under its own roots."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from alter_core.errors import DataError

URL_SCHEMES = ("file", "http", "https", "s3", "gs", "gcs", "abfs", "abfss", "az")
# http and https need none: `datasets` brings aiohttp.
_PACKAGES = {
    **dict.fromkeys(("s3",), ("s3fs", "pip install 'alter-factory[s3]'")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "pip install 'alter-factory[gcs]'")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("adlfs", "pip install adlfs")),
}
_PASSING = (408, 425, 429)  # statuses of HTTP below 500 after which the same request may work later
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.I)
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Roots:
    """The folders that a spec's relative paths lie under: the spec's own, and the data root where one is given."""

    folder: Path
    data_root: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        yield self.folder
        if self.data_root is not None:
            yield self.data_root

    def __str__(self) -> str:
        return " or ".join(str(root) for root in self)

    def contain(self, path: Path) -> bool:
        """Whether `path` really lies under a root, links followed."""
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in self)

    def find(self, given: str) -> Path | None:
        """The file or folder that a relative path names, in the first root that has it. Raises DataError outside."""
        for root in self:
            path = root / Path(given).expanduser()
            if path.exists() or path.is_symlink():
                self.check(path, given)
                return path
        return None

    def check(self, path: Path, given: str) -> None:
        """Raises DataError when `path` leads out of the roots, by .., a link or an absolute path."""
        if not self.contain(path):
            how = "a link leads" if path.is_symlink() or ".." not in Path(given).parts else "it leads"
            raise DataError(
                f"{given}: {how} out of {self}. A spec reads only what lies under its own folder or the data root: "
                "move the file there, or name the folder that holds it with --data-root"
            )


@dataclass(frozen=True)
class File:
    """One file of a source: `name` is how messages call it, without secrets; exactly one of path and url is set."""

    name: str
    path: Path | None = None
    url: str | None = None

    @property
    def base(self) -> str:
        """The last part of its path in lower case, whose endings tell format and compression."""
        return (self.path.name if self.path else urlsplit(str(self.url)).path.rpartition("/")[2]).lower()


def is_url(text: str) -> bool:
    return bool(_SCHEME.match(text))


def shown_url(url: str) -> str:
    """The URL without user, password, query and fragment: those may be secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def find_files(given: str | Sequence[str], roots: Roots) -> list[File]:
    """Files that the paths, URLs or globs name, each once, in name order. Raises DataError when one names nothing.

    Where two would be called alike (URLs are shown without their query), the later ones' names end in a number.
    """
    patterns = [given] if isinstance(given, str) else list(given)
    found: dict[Path | str, File] = {}
    problems = []
    for pattern in patterns:
        try:
            for file in _files(pattern, roots):
                found.setdefault(file.path.resolve() if file.path else str(file.url), file)
        except DataError as error:
            if error.transient:
                raise
            problems.append(error.headline)
    if problems:
        raise DataError.of(problems, "source files cannot be read")
    return _called_apart(sorted(found.values(), key=lambda file: (file.name, str(file.url or file.path))))


def _called_apart(files: Sequence[File]) -> list[File]:
    times: Counter[str] = Counter()
    apart = []
    for file in files:
        times[file.name] += 1
        number = times[file.name]
        apart.append(file if number == 1 else replace(file, name=f"{file.name} ({number})"))
    return apart


def _files(pattern: str, roots: Roots) -> list[File]:
    if pattern.lower().startswith("file://"):
        pattern = urlsplit(pattern).path
    if is_url(pattern):
        return _remote_files(pattern)
    if "\0" in pattern or "::" in pattern:
        raise DataError(f"{pattern!r} is no path: chained file systems and NUL characters are not read")
    if not _MAGIC.search(pattern):
        path = roots.find(pattern)
        if path is None:
            raise DataError(_nothing(pattern, roots))
        return [_local(path, pattern, roots)]
    anchor = Path(pattern).anchor  # empty in a relative one
    below = str(Path(pattern).relative_to(anchor)) if anchor else pattern
    for root in roots:
        roots.check(root / _fixed(pattern), pattern)
        paths = sorted(Path(anchor or root).glob(below))
        paths = [path for path in paths if not path.is_dir() and not _is_left_behind(path, root, pattern)]
        if paths:
            return [_local(path, pattern, roots) for path in paths]
    raise DataError(_nothing(pattern, roots))


def _is_left_behind(path: Path, root: Path, pattern: str) -> bool:
    """Whether a wildcard met a hidden name, such as a notebook's checkpoint of the rows; a shell passes over these."""
    if any(part.startswith(".") and part.strip(".") for part in Path(pattern).parts):
        return False
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return any(part.startswith(".") for part in shown.parts)


def _fixed(pattern: str) -> Path:
    """The leading parts of a glob that hold no wildcard."""
    parts = []
    for part in Path(pattern).parts[:-1]:
        if _MAGIC.search(part):
            break
        parts.append(part)
    return Path(*parts)


def _local(path: Path, given: str, roots: Roots) -> File:
    roots.check(path, given)
    if path.is_dir():
        raise DataError(f"{given}: this is a folder; name its files, such as {given.rstrip('/')}/*.jsonl")
    if not path.is_file():
        raise DataError(f"{given}: this is no plain file, or a link to nothing; name a file of rows")
    if not os.access(path, os.R_OK):
        raise DataError(f"{given}: may not be read by this user; check its permissions")
    for root in roots:
        if path.is_relative_to(root):
            return File(path.relative_to(root).as_posix(), path=path)
    return File(str(path), path=path)


def _nothing(pattern: str, roots: Roots) -> str:
    advice = (
        "" if roots.data_root else "; if the rows lie elsewhere, name their folder with --data-root or ALTER_DATA_ROOT"
    )
    return f"{pattern}: no such file under {roots}{advice}"


def _remote_files(url: str) -> list[File]:
    """Files at a URL; a glob is listed by its file system. Raises DataError, transient where a retry may help."""
    scheme = urlsplit(url).scheme.lower()
    shown = shown_url(url)
    if scheme not in URL_SCHEMES or "::" in url:
        raise DataError(f"{shown}: URLs of the kind {scheme}:// are not read; known kinds are {', '.join(URL_SCHEMES)}")
    if urlsplit(url).username or urlsplit(url).password:
        raise DataError(f"{shown}: credentials do not belong in a URL; the file system reads them from the environment")
    if not _MAGIC.search(urlsplit(url).path) or scheme in ("http", "https"):
        return [File(shown, url=url)]
    with remote_errors(shown):
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        found = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    if not found:
        raise DataError(f"{shown}: no such file there; check the address")
    return [File(shown_url(each), url=each) for each in found]


@contextmanager
def remote_errors(shown: str) -> Iterator[None]:
    """Turns what a file system raises into a DataError that names the file; connections that fail are transient."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        scheme = urlsplit(shown).scheme
        package, how = _PACKAGES.get(scheme, (f"fsspec's package for {scheme}://", "install it"))
        raise DataError(f"{shown}: reading {scheme}:// needs {package}: {how}, then run again") from error
    except Exception as error:
        # fsspec reports every failure of an HTTP request as a missing file; the cause tells what it was.
        cause = error.__cause__
        status = getattr(error, "status", None) or getattr(cause, "status", None)
        if status in (401, 403) or isinstance(error, PermissionError):
            raise DataError(f"{shown}: access was refused; check the credentials in the environment") from error
        hidden = cause is not None and shown.startswith("http")
        if status in (404, 410) or (isinstance(error, FileNotFoundError) and not hidden):
            raise DataError(f"{shown}: there is no such file; check the address") from error
        if status and status < 500 and status not in _PASSING:
            raise DataError(f"{shown}: the server answers with status {status}; check the address") from error
        raise DataError(
            f"{shown}: cannot be reached or read; check the address and the network",
            transient=True,
        ) from error
