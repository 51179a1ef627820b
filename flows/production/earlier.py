"""What a production finds of earlier ones of its domain: what is made already, what may be compared and built upon."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from alter_core.errors import AlterError, SpecError
from alter_core.mta import read_manifest
from alter_core.mta.manifest import BundleManifest
from alter_core.quality.profile import Profile
from alter_core.training.apart import gate_mode_apart
from flows.production.candidate import another_split
from flows.production.earlier_release import made_of_the_same
from flows.production.production import Production
from flows.production.stage import Start
from registry.errors import RegistryInputError
from registry.facts import CardFacts
from registry.models import STARTED_FROM
from registry.versions import Version

SETTLED = "settled"  # tag of a version whose production went to its end: a run that was killed before goes on


def settled(production: Production) -> Version | None:
    """The newest version that was made of the same things, if it was decided upon, whatever became of it since; None
    where its files are gone."""
    with suppress(RegistryInputError):  # of a domain that has no version yet
        for row in production.stores.models.versions(production.plan.spec.name):
            # Several where one was made again and ended otherwise.
            if row["tags"].get("run_key") == production.run_key or made_of_the_same(row, production):
                there = SETTLED in row["tags"] and not production.trouble_with(row["version"])
                return row if there else None
    return None


def stands(version: Version, champion: Version | None, review: bool = False) -> bool:
    """Whether what was decided of a settled version holds today, so that there is nothing to do.

    It does not where the champion is gone, or is one that this version was never compared with: a spec or its rows may
    have been changed, produced, and changed back. review: whether the spec asks a person, as the version may have been.
    """
    tags = version["tags"]
    if review and tags.get("decision") == "review" and not tags.get("review_ended", "").startswith("replaced"):
        if tags.get("champion_before") == (str(champion["version"]) if champion else "none"):
            return True
    if tags.get("rejected"):  # by a person, who knows why
        return True
    if champion is None:
        return False
    return (
        version["version"] == champion["version"]
        or tags.get("rolled_back", "") > tags.get("promoted", "")  # by a person, who knows why
        or bool(champion["tags"].get("promoted_by"))  # as here
        or (tags.get("decision") == "keep" and tags.get("champion_before") == str(champion["version"]))
    )


def said_unchanged(production: Production, made: Version) -> str:
    """What a run says that has nothing to do, as `made` stands."""
    key, of = production.run_key, f"are those of {production.plan.spec.name} version {made['version']}"
    if made["tags"].get("run_key") == key:
        return f"nothing has changed: spec, data, backbone and code {of} (run key {key}); nothing was trained"
    return (
        f"nothing has changed: spec, data and backbone {of}, which an earlier release made. Versions of that release "
        "stay as they are, so nothing was trained; `--force` makes this one anew"
    )


def is_unsettled(champion: Version, run_key: str) -> bool:
    """Whether the champion was made of the same things, and its production was killed just before its end."""
    tags = champion["tags"]
    return tags.get("run_key") == run_key and "decision_reason" in tags and SETTLED not in tags


def champion_profile(production: Production, champion: Version | None) -> Mapping[str, Profile] | None:
    """Task -> profile of the rows that the champion was trained on; None where it has none, or cannot be used."""
    if champion is None or production.trouble_with(champion["version"]):
        return None
    # The registry names only what a card shows of it.
    return cast(Mapping[str, Profile] | None, production.facts_of(champion["version"]).get("profile"))


def first_start(production: Production, champion: Version | None) -> tuple[Start | None, str]:
    """The registered bundle that training goes on from, and what to say of it; None: it begins at the backbone.

    A champion that learnt from just these rows is not taught them again: training starts where the champion's did, so
    that what is unchanged since is reused. Raises AlterError when a task is to be added and no champion can take it.
    """
    plan = production.plan
    name = plan.spec.name
    refreshes = not plan.added and (plan.refresh or plan.spec.warm_start == "refresh")
    if not plan.added and not refreshes and plan.spec.warm_start != "champion":
        return None, ""
    if champion is None:
        if plan.added:
            raise AlterError(
                f"{name} has no champion that a task could be added to: `alter run {name}` trains all of them"
            )
        return None, f"{name} has no champion to {'refresh' if refreshes else 'start from'} yet: all tasks are trained"
    if not plan.added and not refreshes and champion["tags"].get("data_digest") == production.rows.digest:
        if not (before := champion["tags"].get(STARTED_FROM)):
            return None, ""
        try:
            champion = production.stores.models.get(name, before)
        except RegistryInputError:
            return None, f"no warm start: version {before}, which the champion started from, is not there any more"
    number = champion["version"]
    if trouble := production.trouble_with(number):
        if plan.added:
            raise AlterError(f"{plan.added} cannot be added: {trouble}")
        return None, f"no warm start: {trouble}"
    folder = production.bundle_of(number)
    reasons = _differences(production, production.facts_of(number), read_manifest(folder))
    if another_split(plan, champion):
        reasons.append("split, so that it may have learnt from rows that are for the test now")
    if refreshes and not reasons:
        return _refreshed(production, folder, number)
    if not reasons:
        return Start.at(folder, number), f"training starts from version {number}"
    if plan.added:
        raise AlterError(
            f"{plan.added} cannot be added to {name} version {number}, which has another {' and '.join(reasons)}: "
            f"`alter run {name}` trains all tasks"
        )
    return None, f"no warm start from version {number}, which has another {' and '.join(reasons)}"


def nothing_to_refresh(production: Production, champion: Version | None) -> bool:
    """Whether somebody asked for changed rows alone to be learnt, and the champion learnt from just these."""
    same = champion is not None and champion["tags"].get("data_digest") == production.rows.digest
    return production.plan.refresh and same


def _refreshed(production: Production, folder: Path, number: int) -> tuple[Start | None, str]:
    """The champion as what its changed tasks are taught on, and what to say of it; None: all tasks are trained."""
    before = production.facts_of(number)["tasks"]
    changed = tuple(
        name for name, digest in production.task_digests.items() if before.get(name, {}).get("digest") != digest
    )
    if not changed:
        return None, f"no task has other rows than version {number} learnt from: all are trained"
    try:
        gate_mode_apart(read_manifest(folder))
    except SpecError as error:
        return None, f"version {number} cannot be refreshed, so all tasks are trained: {error.headline}"
    kept = [name for name in production.plan.spec.task_names if name not in changed]
    others = f"; {', '.join(kept)} stay as they are in version {number}" if kept else ""
    return Start.at(
        folder, number, changed
    ), f"refreshed alone, as their rows have changed: {', '.join(changed)}{others}"


def _differences(production: Production, facts: CardFacts, manifest: BundleManifest) -> list[str]:
    """What keeps training from going on from a registered bundle."""
    plan = production.plan
    wanted = [task for task in plan.spec.task_names if task != plan.added]
    mta = plan.spec.mta.model_dump(mode="json")
    mta["homes"].pop(plan.added, None)
    config = {name: value for name, value in manifest["config"].items() if name in mta}  # an older one had more to set
    differs = {
        "backbone": facts["backbone"]["digest"] != production.backbone.digest,
        f"tasks ({', '.join(manifest['tasks'])}; needed: {', '.join(wanted)})": set(manifest["tasks"]) != set(wanted),
        "mta": config != mta,
    }
    return [what for what, wrong in differs.items() if wrong]


def bundle_to_compare(production: Production, champion: Version | None) -> str | None:
    """Local folder of the champion's bundle; None where there is none, it cannot be used, or it has no task of the
    spec, so that nothing can be compared."""
    if champion is None or production.trouble_with(champion["version"]):
        return None
    folder = production.bundle_of(champion["version"])
    return str(folder) if set(read_manifest(folder)["tasks"]) & set(production.plan.spec.task_names) else None
