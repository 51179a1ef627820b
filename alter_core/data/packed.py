"""The bytes of a file that may be compressed, and what is wrong with them where they cannot be unpacked."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from typing import IO, Any, cast
from zipfile import BadZipFile, ZipFile

from alter_core.data.places import File, remote_errors
from alter_core.errors import DataError
from alter_core.problems import listed

READ_AHEAD = 2**18  # bytes of a remote file that are asked for at a time
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_MAGIC = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\0",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".lz4": b"\x04\x22\x4d\x18",
    ".zip": b"PK",
}
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, BadZipFile)
_TOLD_AS_DAMAGE = ("decompress", "Truncated compressed", "Invalid data stream")  # plain OSErrors of bz2 and pyarrow


@contextmanager
def opened(file: File) -> Iterator[BufferedReader]:
    """The file's bytes, unpacked by its ending. Raises DataError: transient where a server does not answer."""
    ending = next((ending for ending in COMPRESSED if file.base.endswith(ending)), "")
    with ExitStack() as stack:
        if file.path:
            stack.enter_context(_reading_errors(file, ending))
            raw: Any = stack.enter_context(file.path.open("rb"))
        else:
            import fsspec

            stack.enter_context(remote_errors(file.name))
            stack.enter_context(_reading_errors(file, ending))
            # fsspec's own files have no readline with a limit.
            raw = BufferedReader(stack.enter_context(fsspec.open(cast(str, file.url), "rb")), READ_AHEAD)
        if ending and (head := raw.peek(8)[:8]) and not head.startswith(_MAGIC[ending]):
            raise DataError(
                f"{file.name}: cannot be read: not packed as its ending {ending} says; rename it, or pack it again"
            )
        yield stack.enter_context(_unpacked(raw, ending, file)) if ending else raw


@contextmanager
def _unpacked(raw: IO[bytes], ending: str, file: File) -> Iterator[BufferedReader]:
    if ending == ".zip":
        with _only_member(raw, file) as member:
            yield BufferedReader(cast(Any, member))
        return
    if ending in (".zst", ".lz4"):
        import pyarrow as pa  # reads on where one frame ends and another begins

        stream: Any = pa.CompressedInputStream(raw, {".zst": "zstd", ".lz4": "lz4"}[ending])
    else:
        kinds: dict[str, Any] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
        stream = gzip.GzipFile(fileobj=raw, mode="rb") if ending == ".gz" else kinds[ending](raw, "rb")
    with stream:
        yield BufferedReader(stream)


@contextmanager
def _only_member(archive: IO[bytes], file: File) -> Iterator[IO[bytes]]:
    """The one file in a zip archive. Raises DataError when there are several, or none."""
    with ZipFile(archive) as packed:
        # Archives made on a Mac hold a second, hidden entry for each file.
        members = [m for m in packed.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            held = f"{len(members)} files ({listed([m.filename for m in members])})" if members else "no file"
            raise DataError(f"{file.name}: this archive holds {held}, where one is read; unpack it, and name its files")
        if members[0].flag_bits & 1:
            raise DataError(f"{file.name}: this archive is encrypted; unpack it, and name its file")
        with packed.open(members[0]) as stream:
            yield stream


@contextmanager
def _reading_errors(file: File, ending: str) -> Iterator[None]:
    """Tells a damaged file from a disk that cannot be read and from a reader that fails, which say nothing of it."""
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(file, error) from error
    except NotImplementedError as error:  # zipfile's, of a compression that it does not know
        raise DataError(f"{file.name}: {error}; pack it another way, such as with gzip") from error
    except OSError as error:
        if any(words in str(error) for words in _TOLD_AS_DAMAGE):
            raise _damaged(file, error) from error
        if file.path is None:
            raise
        if error.errno is None:
            reader = f"the reader of {ending} files" if ending else "its reader"
            raise DataError(
                f"{file.name}: {reader} failed, which says nothing of the file: {error}; unpack it, or write it in "
                "another format"
            ) from error
        raise DataError(f"{file.name}: cannot be read: {error.strerror}; check the disk and its permissions") from error


def _damaged(file: File, error: BaseException) -> DataError:
    return DataError(
        f"{file.name}: cannot be read to its end: {str(error) or 'it is damaged'}; fetch it again, or pack it again"
    )
