"""Rows of a `datasets` hub data set, or of a local data set folder. No remote code is ever run."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alter_core.data.files import missing_column
from alter_core.data.places import Roots
from alter_core.errors import DataError
from alter_core.spec import SourceSpec
from alter_core.whole import digest_of_files


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


def hub_rows(source: SourceSpec, columns: tuple[str, ...], roots: Roots) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows, numbered from 1, with label numbers given back as their names. Raises DataError."""
    import datasets

    datasets.disable_progress_bars()
    shown = f"hub data set {source.hub}"
    split = source.split or "train"
    with ExitStack() as stack:
        yield from _named(_opened(source, split, roots, shown, stack), columns, shown)


def _opened(source: SourceSpec, split: str, roots: Roots, shown: str, stack: ExitStack) -> Any:
    try:
        return _loaded(source, local_folder(source, roots), split, roots, stack)
    except DataError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f"{shown}: cannot be reached; check the name and the network, or save it to a folder and name that",
            transient=True,
        ) from error
    except Exception as error:  # the library raises many kinds; its first line tells config, split and revision errors
        told = (str(error).strip() or "the library does not say why").splitlines()[0][:300]
        raise DataError(f"{shown}: cannot be read: {told}; check source > hub, config, split and revision") from error


def _named(data: Any, columns: tuple[str, ...], shown: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of some columns, with class labels as their names."""
    import datasets

    for column in columns:
        if column not in data.column_names:
            raise DataError(missing_column(shown, column, data.column_names))
    data = data.select_columns(list(columns))
    names = {c: f for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
    number = 0
    for batch in data.iter(batch_size=1000):
        lists = [
            [names[c].int2str(v) if v is not None and v >= 0 else None for v in batch[c]] if c in names else batch[c]
            for c in columns
        ]
        for values in zip(*lists, strict=True):
            number += 1
            yield number, dict(zip(columns, values, strict=True))


def _loaded(source: SourceSpec, folder: Path | None, split: str, roots: Roots, stack: ExitStack) -> Any:
    import datasets

    if folder is None:
        data = datasets.load_dataset(
            source.hub, source.config, split=split, revision=source.revision, keep_in_memory=False
        )
        commit = _commit(source)
        if commit and not any(Path(file["filename"]).parent.name == commit for file in data.cache_files):
            # Without the hub the library takes what it has of the data set, of whatever revision.
            raise DataError(
                f"hub data set {source.hub}: revision {commit} cannot be reached, and what is cached here is "
                "another one; check source > revision and the network",
                transient=True,
            )
        return data
    for file in folder.rglob("*"):
        roots.check(file, f"{source.hub}/{file.name}")
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        data = datasets.load_from_disk(str(folder))
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise DataError(f"{source.hub}: there is no split {split!r}; it has {', '.join(data)}")
            return data[split]
        return data
    # The library's cache tells local files apart by name and time alone: rows written anew within a second, or unpacked
    # with the time of others, would be the former ones.
    parent = Path(datasets.config.HF_DATASETS_CACHE)
    parent.mkdir(parents=True, exist_ok=True)
    cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="alter-", dir=parent))
    return datasets.load_dataset(str(folder), source.config, split=split, cache_dir=cache)
