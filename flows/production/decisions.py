"""What a person decides about registered versions: promote against the rule with a reason, roll back, compare, tidy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from alter_core.errors import AlterError
from alter_core.spec import PromotionSpec
from alter_core.spec.load import load_domain
from flows.production import review
from flows.production.caches import Cache
from flows.production.display import plain_console
from flows.production.plan import find_domain
from flows.production.stores import model_name, model_store, write_card
from registry.comparison import Comparison
from registry.comparison import compare as compare_cards
from registry.errors import RegistryError, RegistryInputError
from registry.facts import decided
from registry.front_matter import front_matter
from registry.models import CHALLENGER, REVIEW, ModelStore
from registry.retention import Removal, plan_removals, remove
from registry.scorecard import number, own_scorecard
from registry.versions import Version


@dataclass(frozen=True)
class Decided:
    """What a person decided."""

    domain: str
    version: int
    """The champion of now, or the version that is not to be."""
    text: str
    """What to tell people."""
    news: Literal["champion", "refused"] | None = None
    """None: nothing has changed."""


if TYPE_CHECKING:
    from alter_core.inference.export import Format
    from alter_core.inference.parity import Parity


def compare(domain: str, first: str, second: str) -> Comparison:
    """Two versions side by side, and what the promotion rule says of the second. Raises RegistryError, also where the
    files of one are gone."""
    return _compared(model_store(), domain, first, second)


def promote(domain: str, which: str | None, reason: str | None, typed: str | None = None) -> Decided:
    """Make a version champion. which: None for the one that waits. typed: who says so, where that was typed in Prefect.

    Where the promotion rule says no, or cannot be asked, `reason` is needed, and is kept with the version. Raises
    AlterError without it, for a person who may not, and for a version that was never verified; RegistryError where its
    bundle is gone.
    """
    store, name = model_store(), model_name(domain)
    version, champion = _waiting(store, name, which), store.champion(name)
    which = which or str(version["version"])
    number = int(version["version"])
    if champion and champion["version"] == number:
        return Decided(name, number, f"{name} version {number} is the champion already")
    if "decision_reason" not in version["tags"]:  # which a production writes when the version was verified
        raise AlterError(
            f"{name} version {number} was registered, but its production did not end, so that it was never verified; "
            f"run the domain again, which brings it to its end: alter run {domain}"
        )
    who = review.decider(store, version, typed)
    store.bundle_path(name, number)  # before the alias moves to what nobody could load
    said, agrees = "there was no champion", True
    if champion:
        said, agrees = _asked(store, domain, champion["version"], number)
        if not agrees and not reason:
            raise AlterError(
                f"the promotion rule says no to {name} version {number} against version {champion['version']}: {said}. "
                f"To promote it all the same, say why: alter promote {domain} {which} --reason TEXT"
            )
    store.set_champion(name, number, champion["version"] if champion else None)
    decided_today = {
        "champion_before": champion["version"] if champion else "none",
        "decision": "promote" if agrees else "keep",
        "decision_reason": said,
    }
    taken_back = dict.fromkeys({"rejected", "rejected_by", "rejection_reason"} & version["tags"].keys(), "")
    decided_today |= {"promoted_by": who, "promotion_reason": reason or said, **taken_back}
    store.tag(name, number, decided_today)
    text = f"{name} version {number} is champion now: {reason or said}{_told_in_card(store, name, number)}"
    return Decided(name, number, text, "champion")


def reject(domain: str, which: str | None, reason: str, typed: str | None = None) -> Decided:
    """Say no to a version that waits. which: None for the one that waits. typed: as in `promote`.

    Raises AlterError for a person who may not and without a reason, AliasConflict where it does not wait.
    """
    if not reason.strip():
        raise AlterError("say why with --reason TEXT: it is kept with the version")
    store, name = model_store(), model_name(domain)
    version = _waiting(store, name, which)
    number, who = version["version"], review.decider(store, version, typed)
    said = {"rejected": review.stamp(review.now()), "rejected_by": who, "rejection_reason": reason}
    store.end_waiting(name, number, said)
    text = f"{name} version {number} is rejected: {reason}{_told_in_card(store, name, number)}"
    return Decided(name, number, text, "refused")


def _waiting(store: ModelStore, name: str, which: str | None) -> Version:
    """The version that a person means; of those that wait, the one that the rule would promote."""
    found = store.get(name, which) if which else store.alias(name, REVIEW) or store.alias(name, CHALLENGER)
    if found is None:
        store.versions(name)  # a domain that has none says so
        raise RegistryInputError(f"no version of {name} waits for a decision; `alter models {name}` lists all")
    return found


def rollback(domain: str) -> Decided:
    """Give the champion's place back to the one before.

    Raises RegistryInputError where there is none before or it cannot be told which, and RegistryError where its bundle
    is gone.
    """
    store, name = model_store(), model_name(domain)
    store.versions(name)  # a domain that has none says so
    for before in store.earlier_champions(name)[-1:]:
        try:
            store.bundle_path(name, before)
        except RegistryError as error:
            if error.transient:
                raise
            raise RegistryError(
                f"{name} is not rolled back, as the champion before cannot be loaded: {error.headline}. "
                f"`alter promote {domain} VERSION --reason TEXT` makes another one champion"
            ) from error
    last = store.champions(name)[-1:]
    left, back = store.rollback(name)
    if last and last[0].outside:
        beside = f"; it had been made champion outside alter, and of those before it, {back} is the last that alter saw"
    else:
        beside = ""
    if any(row["version"] == left for row in store.versions(name)):
        became = f" stays registered{beside}{_told_in_card(store, name, left)}"
    else:
        became = ", which was champion, was deleted"
    return Decided(name, back, f"{name} version {back} is champion again; version {left}{became}", "champion")


def plan_gc(keep: int) -> list[Removal]:
    """What `gc` would remove of the registry."""
    return plan_removals(model_store(), keep=keep)


def gc(removals: list[Removal]) -> int:
    """Remove what was planned; bytes that were freed."""
    return remove(model_store(), removals)


def report(domain: str, which: str) -> str:
    """The report of a version as one HTML page. Raises RegistryInputError."""
    from registry.report import render_report

    store, name = model_store(), model_name(domain)
    version = store.get(name, which)
    facts = store.facts(name, version["version"])
    return render_report(decided(facts, version["tags"]), store.versions(name), version["version"])


def export(
    domain: str, which: str, target: Path, form: "Format", task: str | None, approximate: bool, fill_rank: bool
) -> "Parity | None":
    """Write a version as `alter_core.inference.export` does; how the folder answers the version's recorded samples, or
    None where no engine is there to ask it.

    Raises AlterError for settings of another format, MTAError, RegistryInputError, BundleError.
    """
    from alter_core.inference.export import Wanted, export_version

    if target.exists():  # told before the model is loaded, which takes seconds
        raise AlterError(f"{target} exists already; name a folder that is not there yet")
    wanted = Wanted(form, task, approximate, fill_rank)
    if (approximate and not wanted.folds) or (fill_rank and form != "peft"):
        raise AlterError("--approximate belongs to one task as a plain model, and --fill-rank to --format peft")
    store, name = model_store(), model_name(domain)
    number = store.get(name, which)["version"]
    bundle = store.bundle_path(name, number)
    try:
        facts = store.facts(name, number)
    except RegistryInputError:  # registered without its facts
        facts = None
    samples = own_scorecard(facts["scorecards"]).get("samples", ()) if facts else ()
    rows = [(row["task"], row["input"]) for row in samples]
    parity = export_version(bundle, target, wanted, rows, f"{name} version {number}")
    if facts:
        page = target / "README.md"
        page.write_text(front_matter(facts, task) + page.read_text(encoding="utf-8"), encoding="utf-8")
    return parity


def print_comparison(found: Comparison, first: str, second: str) -> None:
    """A comparison for people."""
    out = plain_console()
    table = Table("task", "metric", first, second, "difference", "shared rows")
    for name, task in found["tasks"].items():
        cells = [number(task["first"]), number(task["second"])]
        gap = "" if task["difference"] is None else f"{task['difference']:+.3f}"
        table.add_row(name, task["metric"], *cells, gap, str(task["rows"]))
    table.add_section()
    table.add_row("macro", "", number(found["macro"]["first"]), number(found["macro"]["second"]), "", "")
    out.print(table)
    verdict = "would promote" if found["decision"]["promote"] else "would not promote"
    out.print(f"the rule {verdict} {second}: {found['decision']['reason']}")


def removals_json(removals: Sequence[Removal], caches: Sequence[Cache]) -> str:
    """A plan of `gc` for programs."""
    rows = {"versions": [vars(item) for item in removals], "caches": [vars(cache) for cache in caches]}
    return json.dumps(rows, indent=2, default=str)


def _compared(store: ModelStore, domain: str, first: str, second: str) -> Comparison:
    name = model_name(domain)
    cards = [own_scorecard(store.facts(name, which)["scorecards"]) for which in (first, second)]
    rule = _rule(domain)
    seed = store.recorded_seed(name, second)
    return compare_cards(cards[0], cards[1], rule.max_task_drop, rule.confidence, seed)


def _asked(store: ModelStore, domain: str, champion: int, version: int) -> tuple[str, bool]:
    """What the promotion rule says of a version against the champion, and whether it agrees; it does not where it
    cannot compare them, as a champion's files may be gone."""
    try:
        decision = _compared(store, domain, str(champion), str(version))["decision"]
    except RegistryError as error:
        if error.transient:
            raise
        return f"it cannot compare them: {error.headline}", False
    return decision["reason"], decision["promote"]


def _told_in_card(store: ModelStore, name: str, version: int) -> str:
    """Write a version's card anew after a decision, which stands by then: what to tell where the card could not be."""
    try:
        write_card(store, name, version)
    except RegistryError as error:
        return f" (the card of version {version} stays as it was: {error.headline})"
    return ""


def _rule(domain: str) -> PromotionSpec:
    """The spec's; a registered model may be there without its spec."""
    try:
        return load_domain(find_domain(domain)).promotion
    except AlterError:
        return PromotionSpec()
