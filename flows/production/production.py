"""Production: the value of a run in progress, and what its first steps bring: the backbone, the rows, their quality."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alter_core.backbone import backbone_record
from alter_core.data.dataset import TaskDataset
from alter_core.data.manifest import TaskManifest
from alter_core.quality.report import TaskReport
from alter_core.whole import digest_of
from flows.production.plan import Plan
from flows.production.stores import Stores
from registry.errors import RegistryError
from registry.facts import CardFacts, Profile


@dataclass(frozen=True)
class Backbone:
    """The backbone as it lies in the workspace."""

    path: Path
    source: str
    """As the spec names it."""
    revision: str | None
    digest: str
    parameters: int
    notes: tuple[str, ...] = ()
    """What a reader should know of what lies at its source."""

    @classmethod
    def read(cls, folder: Path) -> "Backbone":
        """Of a converted folder. Raises BackboneError."""
        record = backbone_record(folder)
        source, revision, parameters = record["source"], record["revision"], record["parameters"]
        return cls(folder, source, revision, record["digest"], parameters, tuple(record["notes"]))


@dataclass(frozen=True)
class Rows:
    """The tasks' rows as they lie in the workspace."""

    path: Path
    digest: str
    labels: Mapping[str, tuple[str, ...]]
    """Label task -> its labels."""
    tasks: Mapping[str, TaskManifest]

    @classmethod
    def of(cls, dataset: TaskDataset) -> "Rows":
        return cls(dataset.path, dataset.digest, dataset.labels, dataset.manifest["tasks"])


@dataclass(frozen=True)
class Quality:
    """What the checks of the rows found."""

    folder: Path
    """Of the report: quality.json, quality.html."""
    outcome: str
    warnings: Sequence[str]
    profile: Mapping[str, Profile]
    """Task -> profile of its training rows."""
    tasks: Mapping[str, TaskReport]

    @classmethod
    def read(cls, folder: Path) -> "Quality":
        found = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
        return cls(folder, found["outcome"], found["warnings"], found["profile"], found["tasks"])


@dataclass(frozen=True)
class Production:
    """One run over a domain's rows: what it is to do, what it stands on, and where its results go."""

    plan: Plan
    stores: Stores
    backbone: Backbone
    rows: Rows

    @property
    def run_key(self) -> str:
        return self.plan.run_key(self.rows.digest, self.backbone.digest)

    @property
    def task_digests(self) -> dict[str, str]:
        """Task -> of what it is taught: its rows, and how they are asked."""
        return {
            task.name: digest_of(task.content, self.rows.tasks[task.name]["digest"]) for task in self.plan.spec.tasks
        }

    def facts_of(self, version: int) -> CardFacts:
        """What was recorded of a version of this domain. Raises RegistryError subclasses."""
        return self.stores.models.facts(self.plan.spec.name, version)

    def trouble_with(self, version: int) -> str:
        """Why a version of this domain can be neither compared nor built upon: its files may be gone, or others may
        have registered it; empty where it can. Raises RegistryError where the store does not answer."""
        try:
            self.bundle_of(version)
        except RegistryError as error:
            if error.transient:
                raise
            return error.headline
        return ""

    def bundle_of(self, version: int) -> Path:
        """Local folder of a version's bundle. Raises RegistryError subclasses."""
        return self.stores.models.bundle_path(self.plan.spec.name, version)
