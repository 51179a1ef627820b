"""Section: what every part of a spec shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Free:
    """Marks a field whose values have no type of their own. `alter_core.spec.free` sees to it that YAML gives them none
    in silence."""

    texts: bool = False
    """They are compared with texts of rows: what is written counts, whatever YAML takes it for."""


class Section(BaseModel):
    """Unknown keys are errors, numbers are finite, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes true for 1. Numbers in quotes stay numbers: YAML reads 2e-3 as text."""
        taken = kinds(cls.model_fields[str(info.field_name)].annotation)
        if bool in taken or not taken & {int, float}:
            return value
        if isinstance(value, bool) and str not in taken:
            raise PydanticKnownError("float_type" if float in taken else "int_type")
        if isinstance(value, list) and any(isinstance(each, bool) for each in value):
            raise PydanticCustomError("switch_in_a_list", "must hold numbers alone")
        return value


SpecProblem = tuple[tuple[str | int, ...], str]
"""A place under a section, as keys and positions, and what is wrong there; no keys: the section as a whole."""


def spec_error(found: Sequence[SpecProblem]) -> PydanticCustomError:
    """The error that a validator raises for values that do not fit each other. `alter_core.spec.problems` puts each at
    its own line; elsewhere it is one text."""
    text = "; and ".join(f"{' > '.join(map(str, place))}: {problem}" if place else problem for place, problem in found)
    return PydanticCustomError("spec_problems", "{text}", {"text": text, "found": list(found)})


def kinds(annotation: Any) -> set[Any]:
    """Every plain type that an annotation names, through optionals and lists."""
    inner = get_args(annotation)
    return set().union(*map(kinds, inner)) if inner else {annotation}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this annotation holds, through tuples and optionals."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_of, get_args(annotation))), None)
