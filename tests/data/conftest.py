"""A domain made of whatever files a test gives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.quality.report import QualityReport, validate
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace

Rows = list[dict[str, Any]]
FRUITS = ("apple", "pear", "plum", "fig")


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def good_rows(count: int = 200, first: int = 0) -> Rows:
    """Different inputs, two labels in equal numbers."""
    targets = ("yes", "no")
    return [
        {"input": f"is {FRUITS[n % 4]} number {n} ripe", "target": targets[n % 2]} for n in range(first, first + count)
    ]


class MadeDomain:
    """One domain folder, its workspace, and the calls of a run up to validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "domain"
        self.folder.mkdir()
        self.workspace = Workspace(folder / "home")

    def write(self, name: str, content: bytes | str | Rows) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = jsonl(content) if isinstance(content, list) else content
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def spec(self, *tasks: Mapping[str, Any], **more: Any) -> DomainSpec:
        """Save and load a spec; a task needs only what differs from a classification of rows.jsonl."""
        usual = {"name": "task", "type": "classification", "source": {"path": "rows.jsonl"}}
        values = {
            "name": "made",
            "backbone": {"model": "none"},
            "tasks": [{**usual, **task} for task in tasks or ({},)],
            "stage_one": {"trains": ["adapters"], "steps": 1},
            **more,
        }
        (self.folder / "domain.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return load_domain(self.folder)

    def ingest(self, *tasks: Mapping[str, Any], data_root: Path | None = None, **more: Any) -> TaskDataset:
        return ingest(self.spec(*tasks, **more), self.folder, self.workspace, data_root)

    def validate(self, *tasks: Mapping[str, Any], **more: Any) -> QualityReport:
        spec = self.spec(*tasks, **more)
        return validate(ingest(spec, self.folder, self.workspace), spec, None)


@pytest.fixture
def made(tmp_path: Path) -> MadeDomain:
    return MadeDomain(tmp_path)


@pytest.fixture
def rows_of() -> Callable[..., Rows]:
    """All rows of a data set's split, as mappings."""

    def rows(dataset: TaskDataset, split: str = "train", task: str | None = None) -> Rows:
        return list(dataset.rows(split, task))

    return rows
