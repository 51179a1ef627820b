"""`load_domain`: a domain.yaml as a DomainSpec, or every problem of it at once."""

from pathlib import Path

from pydantic import ValidationError

from alter_core.errors import SpecError
from alter_core.problems import counted
from alter_core.spec.domain import DomainSpec
from alter_core.spec.free import settle
from alter_core.spec.problems import explained
from alter_core.spec.yaml_text import read_mapping


def load_domain(path: Path) -> DomainSpec:
    """Read a domain.yaml, or the one in a folder. Raises SpecError with every problem at once."""
    file = path / "domain.yaml" if path.is_dir() else path
    values, node, problems = read_mapping(file)
    problems += settle(values, node, DomainSpec)
    try:
        spec = DomainSpec.model_validate(values)
    except ValidationError as error:
        problems += explained(error, DomainSpec, values, node)
    if problems:
        problems.sort(key=lambda problem: int(problem.removeprefix("line ").partition(":")[0]))
        raise SpecError(f"{file}: {counted(len(problems), 'problem')}", problems)
    return spec
