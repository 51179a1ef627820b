"""Data Docs: Great Expectations' own pages of a report's validation results, for people who know them.

They load styles and scripts from the network. Without it the pages of results can be read, and look plain; the first
page, which lists them, stays empty. The report that needs no network is `quality_page`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alter_core.errors import WorkspaceError
from alter_core.whole import write_json, written_whole

OWNED = "great_expectations.json"
"""Lies in a folder that was written here, so that no other folder is ever replaced; it holds the results as JSON."""


def write_data_docs(results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], folder: Path) -> Path:
    """Build the site in `folder`, in place of one that was built there before; the path of its first page.

    `results` is `QualityReport.gx_json`. Raises WorkspaceError when the folder holds anything else.
    """
    if folder.exists() and not (folder / OWNED).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(f"{folder} holds something else than Data Docs: give another folder, or empty it")
    from alter_core.quality.great_expectations import build_site

    with written_whole(folder.absolute()) as made:
        build_site([each for task in results.values() for suite in task.values() for each in suite], made, folder.name)
        write_json(made / OWNED, results)
    return folder / "index.html"
