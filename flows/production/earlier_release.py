"""Versions that an earlier release made. Run keys cover code, so theirs match none of today's: what they record of how
they were made is compared instead."""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from alter_core.spec import DomainSpec
from flows.production.production import Production
from registry.errors import RegistryError
from registry.versions import Version

LEFT_AS_THEY_ARE = {"27e39cc4a469d3a3"}
"""Tags `code` of releases whose versions are not made anew for what has changed in the code since: that of commit
c66842c, after which rooms were moved."""
DECIDED_NOTHING = {("mta", "width")}
"""Settings of such a release that are gone, and that nothing depended on where the rest can be said today: the width
was that of bottleneck adapters. A version with any other setting that is gone was made of something else."""


def made_of_the_same(version: Version, production: Production) -> bool:
    """Whether such a release made `version` of the spec, the rows and the backbone that the production has.

    It is said neither of a version to which one task was added nor of one whose files are gone. Raises RegistryError
    where the store is away.
    """
    plan, tags = production.plan, version["tags"]
    if plan.added or tags.get("code") not in LEFT_AS_THEY_ARE or tags.get("data_digest") != production.rows.digest:
        return False
    try:
        made = production.stores.models.recorded(plan.spec.name, version["version"])
        backbone = production.facts_of(version["version"])["backbone"]["digest"]
    except RegistryError as error:
        if error.transient:
            raise
        return False
    spec = as_read_today(made.get("spec", {}))
    same = spec is not None and spec.digest == plan.spec.with_labels(production.rows.labels).digest
    return same and made.get("stage") in plan.spec.stages and backbone == production.backbone.digest


def as_read_today(recorded: Mapping[str, object]) -> DomainSpec | None:
    """The whole spec that an earlier release wrote down; None where it says what no spec says today."""
    values: Any = copy.deepcopy(dict(recorded))
    try:
        return DomainSpec.model_validate(values)
    except ValidationError as error:
        gone = {problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"}
    for section, setting in DECIDED_NOTHING & gone:
        del values[section][setting]
    try:
        return DomainSpec.model_validate(values)
    except ValidationError:
        return None
