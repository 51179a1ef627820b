"""The domain spec that a bundle carries, read by a later version of this code than the one that wrote it."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alter_core.errors import BundleError
from alter_core.problems import lines_of
from alter_core.prompts import format_of
from alter_core.spec import DomainSpec

ANSWERED_BY = ("name", "tasks", "precision")
"""What answers depend on: nothing that it says may be left out."""


def recorded_spec(metadata: Mapping[str, object], path: Path) -> DomainSpec:
    """The spec in a bundle's metadata, for answering.

    Settings that this version no longer has are left out, and so are values that it no longer takes where answers do
    not depend on them: a champion outlives both. Raises BundleError when there is no spec, or no other way to read it.
    """
    if "spec" not in metadata:
        raise BundleError(
            f"{path}: the bundle does not carry its domain spec, so its tasks cannot be prompted: save it with "
            "metadata={'spec': ...}, as `alter run` does"
        )
    values: Any = copy.deepcopy(metadata["spec"])
    for task in values.get("tasks", ()):
        if isinstance(task, dict):
            task.setdefault("layout", "prose")  # the one way there was before the field
    try:
        return DomainSpec.model_validate(values)
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"] and (problem["type"] == "extra_forbidden" or problem["loc"][0] not in ANSWERED_BY):
                _drop(values, problem["loc"])
    try:
        return DomainSpec.model_validate(values)
    except ValidationError as error:
        raise BundleError(
            f"{path}: its domain spec was written by another version of this code and cannot be read: produce the "
            "domain again, or use the version that made the bundle",
            lines_of(error),
        ) from error


def recorded_format(metadata: Mapping[str, object], path: Path) -> int:
    """The prompt format that a bundle was taught by. Raises BundleError for one of a later version of this code."""
    try:
        return format_of(metadata)
    except ValueError as error:
        raise BundleError(
            f"{path}: {error}: use the version that made the bundle, or produce the domain again"
        ) from error


def _drop(values: Any, place: tuple[int | str, ...]) -> None:
    """Remove a setting. Steps of the place that name no part of the values (the kind chosen of several) are passed."""
    *way, last = place
    for step in way:
        if isinstance(step, int) or (isinstance(values, dict) and step in values):
            values = values[step]
    if isinstance(values, dict):
        values.pop(last, None)
