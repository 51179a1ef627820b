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

OF_PERSONS = {
    *("promoted_by", "promotion_reason", "rejected", "rejected_by", "rejection_reason"),
    *("review_ended", "reviewers"),
}
"""Tags of a version that tell what people were asked and said of it."""


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


def decider(store: ModelStore, version: Version) -> str:
    """Who decides now: the account that the MLflow server has checked or, where it has none, this user.

    Raises AlterError for one who is not among those whom the version's spec names.
    """
    name, known = account(store.tracking_uri) or user(), version["tags"].get("reviewers", "")
    if known and name not in known.split(","):
        raise AlterError(
            f"{version['name']} version {version['version']} is for {known.replace(',', ', ')} to decide on "
            f"(promotion > reviewers), and this is {name}; ask one of them"
        )
    return name
