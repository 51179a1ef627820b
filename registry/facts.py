"""Facts: what is kept of a version beside its bundle, from plain values: what its card, bill and report are made of."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from registry.costs import Cost
from registry.scorecard import Scorecards


class TaskFacts(TypedDict, total=False):
    """One task as its spec and its data tell of it."""

    type: str
    description: str
    licence: str
    rows: Mapping[str, int]
    """split -> rows"""
    labels: Sequence[str]
    source: str
    """Where its rows come from, in words."""
    digest: str
    """Of its rows and how they are asked: what a refresh knows them by."""
    origin: int
    """The version that its adapters are from, where they are not this one's."""


class QualityFacts(TypedDict):
    """What the checks of the rows found."""

    outcome: str
    warnings: Sequence[str]


class DataFacts(TypedDict, total=False):
    """The rows."""

    digest: str
    quality: QualityFacts


class BackboneFacts(TypedDict, total=False):
    """The model that was extended."""

    model: str
    revision: str | None
    licence: str
    digest: str
    parameters: int
    notes: Sequence[str]


class ParameterFacts(TypedDict):
    """Of the bundle, and those that any stage changed."""

    total: int
    trained: int


class DecisionFacts(TypedDict):
    """What was decided of a version, as `registry.promotion.decide` or a person did."""

    promote: bool
    reason: str
    numbers: NotRequired[Mapping[str, object]]
    by: NotRequired[str]
    """The person, where one decided."""
    person_reason: NotRequired[str]
    rolled_back: NotRequired[str]
    """When a person took that back."""
    review: NotRequired[str]
    """In place of "promoted" or "candidate": that it waits for a person's word, or how that ended."""
    review_detail: NotRequired[str]
    """Whose word until when, or whose it was."""


class Profile(TypedDict):
    """Of a task's training rows, as far as the card needs it: the next run measures its drift from all of it."""

    token_counts: Mapping[str, Mapping[str, int]]


class CardFacts(TypedDict, total=False):
    """What a card says. Only `domain`, `tasks` and `scorecards` must be there; a part that is missing is left out."""

    domain: str
    description: str
    created: str
    """UTC, ISO 8601."""
    tasks: Mapping[str, TaskFacts]
    scorecards: Scorecards
    """zero_shot, stage_one, stage_two, champion -> scorecard. This model's is stage_two, or stage_one where there is
    no stage two."""
    champion_version: int | None
    """The champion that this version was compared with."""
    data: DataFacts
    backbone: BackboneFacts
    parameters: ParameterFacts
    costs: Mapping[str, Cost]
    """stage -> what it took"""
    opening: Mapping[str, float]
    """Macro scores on validation rows right "before" the gates open and with them "opened"; empty where none do."""
    stale: str
    """Since when and why a champion is stale; empty where it is not."""
    by_task: Mapping[str, str]
    """Task -> the state that it ended the last stage with; of those alone that this made better, and not there where
    tasks did not choose."""
    decision: DecisionFacts | None
    """None before the rule was asked."""
    versions: Mapping[str, str]
    """What made it: run_key, spec digest, code version, MLflow run, flow run, libraries: name -> value."""
    training: Mapping[str, Sequence[Mapping[str, float]]]
    """stage -> rows {"step", "loss"}; for figures."""
    gates: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    """"before", "after" the last stage -> layer -> task -> adapter -> weight; for figures."""
    profile: Mapping[str, Profile]
    """task -> profile of its training rows"""
    lengths: Mapping[str, Mapping[str, Mapping[str, int]]]
    """task -> {"input": {tokens: rows}, "target": {tokens: rows}}, lengths as JSON's keys are: texts; for figures."""


def decision_of(tags: Mapping[str, str]) -> DecisionFacts | None:
    """What a version's tags say was decided, as a card tells it; None before the rule was asked."""
    promoted_by = tags.get("promoted_by")
    if "decision_reason" not in tags and not promoted_by:
        return None
    promote = bool(promoted_by) or tags.get("decision") == "promote"
    found: DecisionFacts = {"promote": promote, "reason": tags.get("decision_reason", "the rule was not asked")}
    if not promote and (review := _review(tags)):
        found |= {"review": review[0], "review_detail": review[1]}
    if promoted_by:
        found |= {"by": promoted_by, "person_reason": tags.get("promotion_reason", "")}
    rolled_back = tags.get("rolled_back", "")
    if promote and rolled_back > tags.get("promoted", ""):
        found["rolled_back"] = rolled_back
    return found


def _review(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """What a version's tags say of a person's word on it, and what of that; None where none was or is asked for."""
    if when := tags.get("rejected"):
        return "Rejected", f"on {when[:10]} by {tags.get('rejected_by', '')}: {tags.get('rejection_reason', '')}"
    if tags.get("decision") != "review":
        return None
    if ended := tags.get("review_ended"):
        return "Not decided", f"as it was {ended}"
    whom = tags.get("reviewers", "").replace(",", ", ") or "whoever may move the alias"
    until = tags.get("review_until", "")[:16].replace("T", " ")
    return "Waits for approval", f"by {whom} until {until} UTC, with alter promote or alter reject"


def decided(facts: CardFacts, tags: Mapping[str, str]) -> CardFacts:
    """`facts` with what the tags say was decided of the version, and against which champion: a version that is made
    again keeps the facts of its first time."""
    found: CardFacts = {**facts}
    found["decision"] = decision_of(tags)
    found["stale"] = tags.get("stale", "")
    if (before := tags.get("champion_before")) is not None:
        champion = int(before) if before.isdecimal() else None
        if champion != facts.get("champion_version"):
            found["champion_version"] = champion
            found["scorecards"] = {name: card for name, card in facts["scorecards"].items() if name != "champion"}
    return found
