"""Rows of a `datasets` hub data set, or of a local data set folder. No remote code is ever run.

Where the data set is files of CSV, JSONL or Parquet, the library says which ones, and they are read as any others are:
the library itself guesses what a column's texts might mean, and 000204 would become 204.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alter_core.data.files import format_of_name, read_file
from alter_core.data.parquet import typed_rows
from alter_core.data.places import File, Roots
from alter_core.data.rows import Rows, missing_column
from alter_core.data.split_column import may_say_a_split
from alter_core.errors import DataError
from alter_core.problems import Problems
from alter_core.spec import SourceSpec
from alter_core.whole import digest_of_files

if TYPE_CHECKING:
    import datasets

_Labels = Mapping[str, "datasets.ClassLabel"]
"""Column -> the feature that knows its labels' names."""
_OwnFile = tuple[File, str, _Labels]
"""A file, its format, and its label columns."""


def local_folder(source: SourceSpec, roots: Roots) -> Path | None:
    """The folder under the roots that `hub` names, or None when it is a hub id. Raises DataError outside the roots."""
    name = source.hub or ""
    path = roots.find(name)
    if path is None and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise DataError(f"{name}: there is no such data set folder under {roots}; check source > hub")
    if path is not None and not path.is_dir():
        raise DataError(f"{name}: source > hub names a data set folder or a hub id; for one file use source > path")
    return path


def hub_fingerprint(source: SourceSpec, roots: Roots) -> str | None:
    """Digest of a local folder's files, or the commit that a pinned revision is; None when only reading can tell."""
    folder = local_folder(source, roots)
    if folder is not None:
        files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}
        for name, file in files.items():
            roots.check(file, f"{source.hub}/{name}")
        return digest_of_files(files)
    return _commit(source)


def _commit(source: SourceSpec) -> str | None:
    """The pinned commit; None where the revision is a branch, a tag or not given."""
    revision = source.revision or ""
    return revision if len(revision) == 40 and set(revision) <= set("0123456789abcdef") else None


_OWN = {"csv": "csv", "json": "jsonl", "parquet": "parquet"}
"""The library's reader -> the format that is read here."""
_PLACES = ("name", "version", "data_dir", "data_files", "description", "features", "hash")


def hub_parts(
    source: SourceSpec, columns: tuple[str, ...], roots: Roots, problems: Problems
) -> Iterator[tuple[str, bool, Rows]]:
    """Name, whether rows are counted by line, and rows of each file, or of the data set as a whole. Raises DataError.

    Label numbers are given back as their names.
    """
    import datasets

    datasets.disable_progress_bars()
    shown = f"hub data set {source.hub}"
    with ExitStack() as stack:
        found = _opened(source, roots, shown, stack)
        if not isinstance(found, list):
            yield str(source.hub), False, _table_rows(found, columns, shown)
            return
        for file, kind, labels in found:
            rows = read_file(file, kind, columns, problems)
            yield (
                file.name,
                kind != "parquet",
                _named(rows, labels or (kind == "parquet" and _stored_labels(file)) or {}),
            )


def _opened(source: SourceSpec, roots: Roots, shown: str, stack: ExitStack) -> Any:
    """The split's files as (file, format, label columns), or a table of the library's."""
    try:
        return _found(source, local_folder(source, roots), source.split or "train", roots, shown, stack)
    except DataError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"{shown}: cannot be reached; check the name and the network, or save it to a folder and name that",
            transient=True,
        ) from error
    except Exception as error:  # the library raises many kinds; its first line tells config, split and revision errors
        reason = (str(error).strip() or "the library does not say why").splitlines()[0][:300]
        raise DataError(f"{shown}: cannot be read: {reason}; check source > hub, config, split and revision") from error


def _found(
    source: SourceSpec, folder: Path | None, split: str, roots: Roots, shown: str, stack: ExitStack
) -> list[_OwnFile] | Any:
    import datasets

    options: dict[str, Any] = {} if folder else {"revision": source.revision}
    if folder is not None:
        for file in folder.rglob("*"):
            roots.check(file, f"{source.hub}/{file.name}")
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            data = datasets.load_from_disk(str(folder))
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    raise DataError(f"{source.hub}: there is no split {split!r}; it has {', '.join(data)}")
                return data[split]
            return data
        # The library's cache tells local files apart by name and time alone: rows written anew within a second, or
        # unpacked with the time of others, would be the former ones.
        parent = Path(datasets.config.HF_DATASETS_CACHE)
        parent.mkdir(parents=True, exist_ok=True)
        options["cache_dir"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="alter-", dir=parent))
    where = source.hub if folder is None else str(folder)
    builder = datasets.load_dataset_builder(where, source.config, **options)
    files = _own_files(builder, source, folder, split, shown)
    if files:
        return files
    data = datasets.load_dataset(where, source.config, split=split, keep_in_memory=False, **options)
    commit = _commit(source)
    if folder is None and commit and not any(Path(f["filename"]).parent.name == commit for f in data.cache_files):
        # Without the hub the library takes what it has of the data set, of whatever revision.
        raise DataError(
            f"hub data set {source.hub}: revision {commit} cannot be reached, and what is cached here is "
            "another one; check source > revision and the network",
            transient=True,
        )
    return data


def _own_files(builder: Any, source: SourceSpec, folder: Path | None, split: str, shown: str) -> list[_OwnFile]:
    """The split's files where they are of a kind that is read here; else none."""
    kind = _OWN.get(type(builder).__module__.rpartition(".")[2])
    config = builder.config
    paths = [str(path) for path in (config.data_files or {}).get(split, ())]
    if kind is None or not paths or any(path.count("://") > 1 or "::" in path for path in paths):
        return []
    usual = type(config)()
    asked = {
        each.name: value
        for each in dataclasses.fields(config)
        if each.name not in _PLACES and (value := getattr(config, each.name)) != getattr(usual, each.name, None)
    }
    separator = asked.pop("delimiter", None) or asked.pop("sep", ",")
    asked.pop("sep", None)
    if asked or separator not in (",", "\t"):
        said = ", ".join(sorted(asked)) or "sep"
        raise DataError(f"{shown}: its card asks for another way of reading ({said}); write it as JSONL or Parquet")
    labels = _labels(builder.info.features or config.features or {})
    found: list[_OwnFile] = []
    for path in paths:
        if folder is not None:
            name = f"{source.hub}/{Path(path).resolve().relative_to(folder.resolve()).as_posix()}"
            file = File(name, path=Path(path))
        else:
            file = File(f"{source.hub}/{path.partition('@')[2].partition('/')[2] or path}", url=path)
        tabs = kind == "csv" and (separator == "\t" or format_of_name(file) == "tsv")
        found.append((file, "tsv" if tabs else kind, labels))
    return found


def _labels(features: Mapping[str, object]) -> _Labels:
    import datasets

    return {column: feature for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def _stored_labels(file: File) -> _Labels:
    """Label columns that the library noted in a Parquet file that it wrote."""
    import datasets
    import pyarrow.parquet as pq

    from alter_core.data.packed import opened

    try:
        with opened(file) as stream:
            return _labels(datasets.Features.from_arrow_schema(pq.read_schema(stream)))
    except Exception:  # what is wrong with the file is told when its rows are read
        return {}


def _named(rows: Rows, labels: _Labels) -> Rows:
    """Rows with label numbers as their names."""
    for number, row in rows:
        yield (
            number,
            {column: _name(labels[column], value) if column in labels else value for column, value in row.items()},
        )


def _name(feature: Any, value: Any) -> Any:
    text = str(value).strip()
    if not text.removeprefix("-").isdecimal():
        return value
    number = int(text)
    return feature.int2str(number) if 0 <= number < feature.num_classes else None


def _table_rows(data: Any, columns: tuple[str, ...], shown: str) -> Rows:
    """Rows of a table that the library has read, with class labels as their names."""
    for column in columns:
        if column not in data.column_names:
            raise DataError(missing_column(shown, column, data.column_names))
    _check_guesses(data, columns, shown)
    data = data.select_columns([name for name in data.column_names if name in columns or may_say_a_split(name)])
    tables = data.with_format("arrow").iter(batch_size=1000)
    rows = (row for table in tables for batch in table.to_batches() for row in typed_rows(batch))
    yield from _named(enumerate(rows, 1), _labels(data.features))


def _check_guesses(data: Any, columns: tuple[str, ...], shown: str) -> None:
    """Raises DataError for columns whose texts the library has taken for something else: what stood there is lost."""
    if data.info.builder_name not in ("csv", "json"):
        return
    for column in columns:
        kind = getattr(data.features[column], "dtype", None)
        if kind not in ("string", "large_string") and column not in _labels(data.features):
            raise DataError(
                f"{shown}: the datasets library has guessed that column {column!r} is {kind or 'nested'}, and what "
                "stood in the file is lost (000204 is 204 then); read the files themselves with source > path"
            )
