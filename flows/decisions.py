"""What a person decides about registered versions: promote against the rule with a reason, roll back, compare, tidy."""

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from alter_core.errors import AlterError
from alter_core.spec import PromotionSpec, load_domain
from alter_core.workspace import Workspace
from flows.caches import Cache
from flows.plan import find_domain
from flows.stores import model_name, model_store, write_card
from registry.card import decided, number, own_scorecard
from registry.comparison import compare as compare_cards
from registry.errors import RegistryInputError
from registry.models import CHAMPION, ModelStore
from registry.retention import Removal, plan_removals, remove


def compare(domain: str, first: str, second: str) -> dict[str, Any]:
    """Two versions side by side, and what the promotion rule says of the second. Raises RegistryInputError."""
    return _compared(model_store(Workspace.default()), domain, first, second)


def promote(domain: str, which: str, reason: str | None) -> str:
    """Make a version champion; what to tell the person.

    Where the promotion rule says no, `reason` is needed, and is kept with the version. Raises AlterError without it.
    """
    store, name = model_store(Workspace.default()), model_name(domain)
    version, champion = store.get(name, which), store.alias(name, CHAMPION)
    number = int(version["version"])
    if champion and champion["version"] == number:
        return f"{name} version {number} is the champion already"
    said = "there was no champion"
    if champion:
        decision = _compared(store, domain, str(champion["version"]), str(number))["decision"]
        said = decision["reason"]
        if not decision["promote"] and not reason:
            raise AlterError(
                f"the promotion rule says no to {name} version {number} against version {champion['version']}: {said}. "
                f"To promote it all the same, say why: alter promote {domain} {which} --reason TEXT"
            )
    store.set_champion(name, number, champion["version"] if champion else None)
    store.tag(name, number, {"promoted_by": _user(), "promotion_reason": reason or said})
    with suppress(RegistryInputError):  # of a version that was registered without its facts
        write_card(store, name, number, store.facts(name, number, Workspace.default().downloads))
    return f"{name} version {number} is champion now: {reason or said}"


def rollback(domain: str) -> str:
    """Give the champion's place back to the one before; what to tell the person. Raises RegistryInputError."""
    name = model_name(domain)
    left, back = model_store(Workspace.default()).rollback(name)
    return f"{name} version {back} is champion again; version {left} stays registered"


def plan_gc(keep: int) -> list[Removal]:
    """What `gc` would remove of the registry."""
    return plan_removals(model_store(Workspace.default()), keep=keep)


def gc(removals: list[Removal]) -> int:
    """Remove what was planned; bytes that were freed."""
    return remove(model_store(Workspace.default()), removals)


def report(domain: str, which: str) -> str:
    """The report of a version as one HTML page. Raises RegistryInputError."""
    from registry.report import render_report

    workspace = Workspace.default()
    store, name = model_store(workspace), model_name(domain)
    version = store.get(name, which)
    facts: Any = store.facts(name, version["version"], workspace.downloads)
    return render_report(decided(facts, version["tags"]), store.versions(name), version["version"])


def export(domain: str, task: str, which: str, target: Path, approximate: bool) -> None:
    """Write a task as a plain transformers model. Raises MTAError, RegistryInputError, BundleError."""
    from alter_core.mta.folding import export as write
    from flows.stores import load_predictor

    if target.exists():  # told before the model is loaded, which takes seconds
        raise AlterError(f"{target} exists already; name a folder that is not there yet")
    predictor = load_predictor(domain, which)
    if predictor.mta is None:
        raise AlterError(f"{domain} {which} holds no MTA layers, so nothing is there to fold")
    write(predictor.mta, predictor.tokenizer, task, target, approximate=approximate)


def print_comparison(found: Mapping[str, Any], first: str, second: str) -> None:
    """A comparison for people."""
    out = Console(soft_wrap=True)
    table = Table("task", "metric", first, second, "difference", "shared rows")
    for name, task in found["tasks"].items():
        cells = [number(task[key]) for key in ("first", "second")]
        gap = "" if task["difference"] is None else f"{task['difference']:+.3f}"
        table.add_row(name, task["metric"], *cells, gap, str(task["rows"]))
    table.add_section()
    table.add_row("macro", "", number(found["macro"]["first"]), number(found["macro"]["second"]), "", "")
    out.print(table)
    verdict = "would promote" if found["decision"]["promote"] else "would not promote"
    out.print(f"the rule {verdict} {second}: {found['decision']['reason']}", markup=False, highlight=False)


def removals_json(removals: Sequence[Removal], caches: Sequence[Cache]) -> str:
    """A plan of `gc` for programs."""
    rows = {"versions": [vars(item) for item in removals], "caches": [vars(cache) for cache in caches]}
    return json.dumps(rows, indent=2, default=str)


def _compared(store: ModelStore, domain: str, first: str, second: str) -> dict[str, Any]:
    name, cache = model_name(domain), Workspace.default().downloads
    cards = [_own_card(store.facts(name, which, cache)) for which in (first, second)]
    rule = _rule(domain)
    return compare_cards(cards[0], cards[1], rule.max_task_drop, rule.confidence)


def _own_card(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    cards: Mapping[str, Any] = facts["scorecards"]
    card: Mapping[str, Any] = cards[own_scorecard(cards)]
    return card


def _rule(domain: str) -> PromotionSpec:
    """The spec's; a registered model may be there without its spec."""
    try:
        return load_domain(find_domain(domain)).promotion
    except AlterError:
        return PromotionSpec()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"user {os.getuid()}"
