"""`load_domain`: a domain.yaml as a DomainSpec, or every problem of it at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from alter_core.errors import SpecError
from alter_core.spec.domain import DomainSpec
from alter_core.spec.fit import misfits_between
from alter_core.spec.mta import MTAConfig
from alter_core.spec.problems import explained
from alter_core.spec.section import Misfit, Section
from alter_core.spec.stage import StageSpec
from alter_core.spec.yaml_text import read_mapping

SectionT = TypeVar("SectionT", bound=Section)


def _misfits_of_readable(values: Mapping[str, Any]) -> list[Misfit]:
    """What does not fit between those sections of a spec that are right each for itself."""
    tasks = values.get("tasks")
    given = [task.get("name") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) < len(tasks or ()):
        return []
    stages = [(key, _readable(StageSpec, values.get(key))) for key in ("stage_one", "stage_two")]
    mta = _readable(MTAConfig, values.get("mta", {}))
    right = [(key, stage) for key, stage in stages if stage]
    return list(misfits_between(names, mta, right, values.get("warm_start", "backbone")))


def _readable(section: type[SectionT], value: Any) -> SectionT | None:
    try:
        return section.model_validate(value)
    except ValidationError:
        return None


def load_domain(path: Path) -> DomainSpec:
    """Read a domain.yaml, or the one in a folder. Raises SpecError with every problem at once."""
    file = path / "domain.yaml" if path.is_dir() else path
    values, node, problems = read_mapping(file)
    try:
        spec = DomainSpec.model_validate(values)
    except ValidationError as error:
        # pydantic looks between sections once each of them is right, and not before.
        between = _misfits_of_readable(values) if any(item["loc"] for item in error.errors()) else []
        problems += explained(error, DomainSpec, values, node, between)
    if problems:
        problems.sort(key=lambda problem: int(problem.removeprefix("line ").partition(":")[0]))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{file}: {count}", problems)
    return spec
