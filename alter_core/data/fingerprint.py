"""What a data set depends on, told without reading its rows where that is possible."""

from pathlib import Path
from typing import Any

from alter_core.code import code_digest
from alter_core.data.callables import Callables
from alter_core.data.places import File, Roots, find_files, remote_errors
from alter_core.spec import DomainSpec, SourceSpec
from alter_core.whole import digest_of, digest_of_file

INGESTION = "alter_core.data.ingest"
"""The module that decides which rows come out, and how they are written."""


def source_fingerprint(
    spec: DomainSpec, folder: Path, data_root: Path | None, callables: Callables | None = None
) -> str | None:
    """Digest of the spec's data part and of what its sources hold: file contents, versions, commits.

    None when a source cannot be known without reading it: SQL, a hub data set without a pinned commit, a callable whose
    module has no `fingerprint`, a URL whose server gives no entity tag. Such a domain is read anew in every run, and
    the digest of its rows says whether anything changed. Raises DataError when a source is not there.
    """
    roots = Roots(folder, data_root)
    callables = callables or Callables(folder)
    contents = []
    for task in spec.tasks:
        for source in filter(None, (task.source, task.test)):
            content = _content(source, roots, callables)
            if content is None:
                return None
            contents.append(content)
    data = [
        task.model_dump(mode="json", include={"name", "type", "source", "test", "labels", "layout"})
        for task in spec.tasks
    ]
    return digest_of(data, spec.split.model_dump(mode="json"), contents, code_digest(INGESTION))


def _content(source: SourceSpec, roots: Roots, callables: Callables) -> Any | None:
    if source.path is not None:
        contents = {}
        for file in find_files(source.path, roots):
            content = _file_content(file)
            if content is None:
                return None
            contents[file.name] = content
        return contents
    if source.callable is not None:
        return callables.fingerprint(source.callable, source.arguments)
    if source.hub is not None:
        from alter_core.data.hub import hub_fingerprint

        return hub_fingerprint(source, roots)
    return None


def _file_content(file: File) -> str | None:
    """Of a URL what its server says identifies the content; None when it says nothing that can be relied on."""
    if file.path is not None:
        return digest_of_file(file.path)
    with remote_errors(file.name):
        import fsspec

        system, path = fsspec.core.url_to_fs(file.url)
        info = system.info(path)
    for name in ("ETag", "etag", "md5Hash", "crc32c", "content_md5"):
        if info.get(name):
            return digest_of(name, str(info[name]), info.get("size"))
    return None
