"""Versions that wait for a person's word: what is asked of whom, until when, and how that ends."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from alter_core.errors import AlterError
from alter_core.spec import PromotionSpec
from alter_core.spec.span import length
from flows.production.plan import Plan
from flows.production.stores import write_card
from registry.accounts import account, user
from registry.errors import AliasConflict, RegistryError
from registry.models import REVIEW, ModelStore
from registry.versions import Version

REVIEW_FLOW = "review"
REVIEW_TAG = "alter-review"
"""Of the deployments and runs that ask people, in place of the factory's: the automation that ends silent runs would
end those that wait."""
OF_PERSONS = {
    *("promoted_by", "promotion_reason", "rejected", "rejected_by", "rejection_reason"),
    *("review_ended", "reviewers"),
}
"""Tags of a version that tell what people were asked and said of it."""


def review_tag(name: str) -> str:
    """Tag of a domain's deployment that asks people, and of its runs."""
    return f"review:{name}"


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """As tags have it: such texts compare as the times do."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def asked(rule: PromotionSpec, tags: Mapping[str, str], champion: int | None) -> dict[str, str]:
    """Tags of a version that is put up for review; the time of one that waits already against this champion goes on."""
    waits = (
        tags.get("decision") == "review"
        and not any(tags.get(end) for end in ("review_ended", "rejected", "promoted_by"))
        and tags.get("champion_before") == ("none" if champion is None else str(champion))
    )
    since = tags["review_since"] if waits else stamp(now())
    until = stamp(datetime.fromisoformat(since) + length(rule.wait))
    return {"review_since": since, "review_until": until, "reviewers": ",".join(rule.reviewers)}


def is_overdue(version: Version) -> bool:
    """Whether a version waits for longer than its spec allowed."""
    return REVIEW in version["aliases"] and version["tags"].get("review_until", "") <= stamp(now())


def put_aside(plan: Plan, store: ModelStore) -> Version | None:
    """The version that waited for longer than its spec allowed, which now waits no longer, as its card says; None where
    none did. For who holds the domain's lock."""
    name = plan.spec.name
    waiting = store.alias(name, REVIEW)
    if waiting is None or not is_overdue(waiting):
        return None
    number, until = waiting["version"], waiting["tags"].get("review_until", "")
    ended = f"put aside: nobody decided until {until[:16].replace('T', ' ')} UTC"
    try:
        store.end_waiting(name, number, {"review_ended": ended})
    except AliasConflict:  # a person decided just now
        return None
    with suppress(RegistryError):  # its files may be gone; its tags tell it
        write_card(store, name, number)
    return waiting


def ending(version: Version) -> str:
    """How the wait of a version that waits no longer ended."""
    tags = version["tags"]
    if who := tags.get("promoted_by"):
        return f"promoted by {who}: {tags.get('promotion_reason', '')}"
    if tags.get("rejected"):
        return f"rejected by {tags.get('rejected_by', '')}: {tags.get('rejection_reason', '')}"
    return tags.get("review_ended") or "it waits no longer"


def decider(store: ModelStore, version: Version, typed: str | None = None) -> str:
    """Who decides now: the account that the MLflow server has checked or, where it has none, this user. typed: a name
    from Prefect's form, which nobody has checked.

    Raises AlterError for one who is not among those whom the version's spec names, and for a typed name that is empty,
    or where the server has accounts.
    """
    checked, known = account(store.tracking_uri), version["tags"].get("reviewers", "")
    if typed is not None and checked:
        command = f"{version['name']} {version['version']} --reason TEXT"
        raise AlterError(
            "the MLflow server has accounts, and a name that is typed in Prefect is none that it has checked; decide "
            f"by `alter promote {command}` or `alter reject {command}`"
        )
    name = checked or (user() if typed is None else typed.strip())
    if not name:
        raise AlterError("say who decides: the name is kept with the version")
    if known and name not in known.split(","):
        raise AlterError(
            f"{version['name']} version {version['version']} is for {known.replace(',', ', ')} to decide on "
            f"(promotion > reviewers), and this is {name}; ask one of them"
        )
    return name if typed is None else f"{name}, as typed in Prefect"
