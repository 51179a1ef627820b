"""What a run of a domain will do: its spec, its folders, and the keys that tell what can be reused."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from alter_core.code import code_digest
from alter_core.data.fingerprint import INGESTION
from alter_core.errors import SpecError
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from alter_core.whole import digest_of
from alter_core.workspace import Workspace

LOCK = ".lock"
"""In the folder of a domain's runs: held while it is produced."""
OPEN_MARK = ".open"
"""Beside it from the start of a flow to its good end: where nobody holds the lock, it is of one that failed or died."""
ABLATION_LOCK = ".ablation.lock"
"""In the folder of a domain's ablation, which works beside productions: held while it does."""
StageName = Literal["stage_one", "stage_two", "add_task", "refresh"]
Result = Literal["quality report", "stage", "scorecard", "answers", "ablation trial", "run"]
_QUALITY, _STAGE, _SCORECARD = "alter_core.quality.report", "alter_core.training.job", "alter_core.evaluation.job"
_MADE_BY: dict[Result, tuple[str, ...]] = {
    "quality report": (_QUALITY,),
    "stage": (_STAGE,),
    "scorecard": (_SCORECARD,),
    "answers": ("alter_core.inference.predict",),
    "ablation trial": ("alter_core.ablation.trials",),
    "run": (INGESTION, _QUALITY, _STAGE, _SCORECARD),
}
"""The modules that compute a result; what these import computes it with them."""


def domain_folders() -> dict[str, Path]:
    """Domains that can be called by name: those under ./domains, then those that the package ships."""
    return {**_folders_under(Path(str(files("domains")))), **_folders_under(Path("domains"))}


def all_domains() -> list[str]:
    """Names that a command is about which is given none: the domains under ./domains or, where there are none, those
    that the package ships."""
    return sorted(_folders_under(Path("domains"))) or sorted(domain_folders())


def _folders_under(root: Path) -> dict[str, Path]:
    return {file.parent.name: file.parent.absolute() for file in sorted(root.glob("*/domain.yaml"))}


def find_domain(given: str) -> Path:
    """The domain.yaml that a command line means: a name, a folder or a path. Raises SpecError with close names."""
    path = Path(given)
    try:
        if path.is_file():
            return path.absolute()
        if (path / "domain.yaml").is_file():
            return (path / "domain.yaml").absolute()
    except PermissionError:
        raise SpecError(f"{path}: this user may not look there; check the permissions of its folders") from None
    except OSError:
        pass  # a name that no file can have
    known = domain_folders()
    if given in known:
        return known[given] / "domain.yaml"
    close = difflib.get_close_matches(given, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SpecError(
        f"there is no domain {given!r}: {hint}"
        f"give a name ({', '.join(known) or 'none found under domains/'}), a folder with a domain.yaml, or its path"
    )


def named_once(spec: DomainSpec, file: Path, taken: dict[str, Path]) -> None:
    """Note in `taken` (name -> file) that a spec has its name. Raises SpecError when another file's spec has it too."""
    if taken.setdefault(spec.name, file) != file:
        raise SpecError(f"the name {spec.name} is that of {taken[spec.name]} and of {file}: rename one")


def code_of(result: Result) -> str:
    """Of the code that makes a result, for its key. Of other libraries' versions it says nothing."""
    return code_digest(*_MADE_BY[result])


@dataclass(frozen=True)
class Plan:
    """One domain on one workspace. Keys name content: what depends on a part has that part in its key."""

    file: Path
    spec: DomainSpec
    workspace: Workspace
    data_root: Path | None
    added: str | None = None
    """The task that alone is trained, onto the champion; None: everything is."""
    refresh: bool = False
    """Whoever asked for this run wants the champion's tasks whose rows have changed trained anew, and no others."""

    @classmethod
    def read(
        cls, domain: str, data_root: Path | None = None, added: str | None = None, refresh: bool = False
    ) -> "Plan":
        """Raises SpecError for an unknown domain, a wrong spec, or an added task that the spec does not have."""
        file = find_domain(domain)
        spec = load_domain(file)
        if added is not None and added not in spec.task_names:
            raise SpecError(
                f"{file}: there is no task {added!r}; its tasks are {', '.join(spec.task_names)}: "
                "describe the new task in the spec first"
            )
        return cls(file, spec, Workspace.default(), data_root, added, refresh)

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def lock_file(self) -> Path:
        return self.workspace.runs / self.spec.name / LOCK

    @property
    def open_mark(self) -> Path:
        return self.lock_file.with_name(OPEN_MARK)

    def stages(self, refreshed: Sequence[str] = ()) -> Iterator[StageName]:
        """What is trained, in order. refreshed: the tasks of the champion that alone are, where it is refreshed."""
        if self.added:
            yield "add_task"
        elif refreshed:
            yield "refresh"
        else:
            yield from self.spec.stages

    def stage_key(
        self, stage: str, data_digest: str, backbone_digest: str, start: str | None, refreshed: Sequence[str] = ()
    ) -> str:
        """Of all that a stage's weights depend on. start: digest of the bundle that it begins from."""
        spec = self.spec
        own: dict[str, object] = {
            "tasks": [task.content for task in spec.tasks],
            **spec.model_dump(mode="json", include={"mta", "stage_one", "precision", "trunk_cache", "seed"}),
            "evaluation": spec.evaluation.max_validation_rows,
            "last": spec.stages_end_with(stage),  # the last stage's bundle holds the backbone
        }
        if stage != "stage_one":
            own |= {**spec.model_dump(mode="json", include={"stage_two"}), "added": self.added, "refreshed": refreshed}
        return digest_of(stage, own, data_digest, backbone_digest, start, code_of("stage"))

    def quality_key(
        self, data_digest: str, tasks: Mapping[str, object], backbone_digest: str, champion: int | None
    ) -> str:
        """Of all that a quality report depends on: also what was read and left out, and the tokenizer.

        tasks: of the data set's manifest. champion: the version whose rows these are compared with.
        """
        bounds = [task.model_dump(mode="json", exclude={"source", "test"}) for task in self.spec.tasks]
        return digest_of(data_digest, tasks, bounds, backbone_digest, champion, code_of("quality report"))

    def score_key(self, subject: str, data_digest: str, calibrated: bool = False) -> str:
        """Of all that a scorecard of the test rows depends on; `subject` is a bundle's or the backbone's digest.
        calibrated: temperatures are fitted with it."""
        bounds = {"abstain_below", "abstain_precision"}
        tasks = [{**task.content, **task.model_dump(include=bounds)} for task in self.spec.tasks]
        how = self.spec.evaluation.model_dump(mode="json", include={"max_rows", "baselines"})
        known = [self.spec.evaluation.max_validation_rows] if calibrated else []
        return digest_of(subject, tasks, how, data_digest, code_of("scorecard"), *known)

    @property
    def answers_folder(self) -> Path:
        """Of answers to rows, kept from one scorecard to the next: files keyed by all else that they depend on."""
        return self.run_folder(f"answers-{digest_of(code_of('answers'))}")

    @property
    def split_keys(self) -> dict[str, str]:
        """Task -> of what decides which of its rows are for the test: while it stays, no row changes sides."""
        split = self.spec.split.model_dump(mode="json")
        keys = {}
        for task in self.spec.tasks:
            column = "group" if self.spec.split.by == "group" else "input"  # a row's side is told from this
            told_by = [task.source.columns.get(column), task.source.template if column == "input" else None]
            own_test = task.test and task.test.model_dump(mode="json")
            keys[task.name] = digest_of(split, own_test, *([told_by] if any(told_by) else []))
        return keys

    def run_key(self, data_digest: str, backbone_digest: str) -> str:
        """Of the whole run: spec, data, backbone and code."""
        only = "--refresh" if self.refresh else self.added
        return digest_of(self.spec.digest, data_digest, backbone_digest, only, code_of("run"))

    def run_folder(self, key: str) -> Path:
        return self.workspace.run_folder(self.spec.name, key)
