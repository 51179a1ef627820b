"""The model card: everything a reader needs to judge a version, as Markdown, from plain values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict

from registry.costs import MEASURES, Cost, share
from registry.scorecard import (
    Scorecards,
    against_bag_of_words,
    calibration_lines,
    macro_of,
    own_scorecard,
    score_of,
    shown_subjects,
)

FEW_ROWS = 30
"""Below, resampled rows do not show how far a score may be off: 5 of 5 right would be 1.000 to 1.000."""


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


def number(value: float | None) -> str:
    """A score for people; empty where there is none."""
    return "" if value is None else f"{value:.3f}"


def render_card(facts: CardFacts) -> str:
    """The card. Text from specs and data is escaped, so that it cannot change the page. Raises KeyError naming a fact
    that must be there."""
    parts = [
        _summary(facts),
        f"# {plain(facts['domain'])}",
        plain(facts.get("description", "")),
        _decision(facts),
        _scores(facts),
        _calibration(facts),
        _use(facts),
        _data(facts),
        _made_of(facts),
        _costs(facts),
        _limits(facts),
        _versions(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(facts: CardFacts) -> str:
    """One line, first because lists of versions show no more than that."""
    cards = facts["scorecards"]
    macro = cards[own_scorecard(cards)]["macro"]
    text = (
        f"Macro score {macro['value']:.3f} ({macro['low']:.3f} to {macro['high']:.3f}) over {len(facts['tasks'])} tasks"
    )
    if "zero_shot" in cards:
        text += f"; the backbone alone {cards['zero_shot']['macro']['value']:.3f}"
    return text + "."


def plain(text: object) -> str:
    """Foreign text for a line of Markdown: neither markup nor a table cell's end comes through."""
    line = " ".join(str(text).split())
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return line


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns stand left, the others right."""
    marks = ["---"] * left + ["--:"] * (len(header) - left)
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _decision(facts: CardFacts) -> str:
    decision = facts.get("decision")
    if not decision:
        return ""
    verdict = "Promoted to champion" if decision["promote"] else "Stays a candidate"
    if back := decision.get("rolled_back"):
        verdict = f"Rolled back on {plain(back[:10])}; it had been promoted to champion"
    against = facts.get("champion_version")
    than = f" against champion version {against}" if against is not None else ""
    text = f"**{verdict}**{than}: {plain(decision['reason'])}."
    if review := decision.get("review"):
        text = f"**{review}** {plain(decision.get('review_detail', ''))}. The rule{than}: {plain(decision['reason'])}."
    if person := decision.get("by"):
        text += f" Decided by {plain(person)}: {plain(decision.get('person_reason', ''))}"
    if stale := facts.get("stale"):
        text += f"\n\n**Stale** {plain(stale)}."
    return text


def _scores(facts: CardFacts) -> str:
    cards = facts["scorecards"]
    mine = cards[own_scorecard(cards)]
    *others, _ = shown_subjects(cards)
    header = ["task", "metric", "rows", *(one.label for one in others), "**this model**", "interval"]
    rows = []
    for task, score in mine["tasks"].items():
        value = score["metrics"][score["metric"]]
        rows.append(
            [
                plain(task),
                plain(score["metric"]),
                f"{score['rows']:,}",
                *(number(score_of(cards, one.key, task)) for one in others),
                f"**{value['value']:.3f}**",
                f"{value['low']:.3f} to {value['high']:.3f}",
            ]
        )
    macro = mine["macro"]
    totals = [number(macro_of(cards, one.key)) for one in others]
    interval = f"{macro['low']:.3f} to {macro['high']:.3f}"
    rows.append(["**macro**", "mean of the above", "", *totals, f"**{macro['value']:.3f}**", interval])
    against = against_bag_of_words(cards) or "What a bag of words would score was not recorded."
    return f"## Scores on held-out rows\n\n{table(header, rows, left=2)}\n\n{plain(against)}"


def _calibration(facts: CardFacts) -> str:
    lines = calibration_lines(facts["scorecards"][own_scorecard(facts["scorecards"])])
    return "## Scores as probabilities\n\n" + "\n".join(f"- {plain(line)}" for line in lines) if lines else ""


def _use(facts: CardFacts) -> str:
    name, task = facts["domain"], next(iter(facts["tasks"]), "TASK")
    return f"""## How to use it

```bash
alter predict {name} --task {task} "TEXT"
alter predict {name} --file ROWS.jsonl --out ANSWERS.jsonl
mlflow models serve -m models:/{name}@champion --env-manager local
```
```python
# models:/{name}/N is version N
model = mlflow.pyfunc.load_model("models:/{name}@champion")
rows = pd.DataFrame([{{"task": "{task}", "input": "TEXT"}}])
model.predict(rows)  # -> prediction, score, truncated, abstain
```

`score` is the label's probability for label tasks, at the task's temperature, and the answer's mean token probability
otherwise. `abstain` marks answers whose score is below the task's bound; they are given all the same."""


def _data(facts: CardFacts) -> str:
    there = {split for task in facts["tasks"].values() for split in task.get("rows", {})}
    splits = [split for split in ("train", "validation", "test") if split in there]
    rows = []
    for name, task in facts["tasks"].items():
        about = plain(task.get("description", ""))
        labels = task.get("labels") or ()
        if labels:
            named = ", ".join(map(plain, labels[:12])) + (", ..." if len(labels) > 12 else "")
            about += f"{' ' if about else ''}{len(labels)} labels: {named}"
        counts = [f"{task.get('rows', {}).get(split, 0):,}" for split in splits]
        cells = [plain(name), plain(task.get("type", "")), about, plain(task.get("source", ""))]
        rows.append([*cells, plain(task.get("licence", "")) or "not stated", *counts])
    header = ["task", "type", "what it is", "source", "licence", *splits]
    text = "## Tasks and data\n\n" + table(header, rows, left=5)
    data = facts.get("data", {})
    if digest := data.get("digest"):
        text += f"\n\nData digest `{digest}`."
    if quality := data.get("quality"):
        text += f" Quality: **{plain(quality.get('outcome', 'unknown'))}**."
        if warnings := quality.get("warnings"):
            text += "\n\n" + "\n".join(f"- {plain(warning)}" for warning in warnings)
    return text


def _made_of(facts: CardFacts) -> str:
    lines = []
    if backbone := facts.get("backbone"):
        line = f"- Backbone: {plain(backbone.get('model', ''))}"
        if revision := backbone.get("revision"):
            line += f" at {plain(revision)}"
        line += f", licence {plain(backbone.get('licence') or 'not stated')}"
        if count := backbone.get("parameters"):
            line += f", {count / 1e6:,.1f}M parameters"
        if digest := backbone.get("digest"):
            line += f", digest `{digest}`"
        lines += [line, *(f"  - {plain(note)}" for note in backbone.get("notes", ()))]
    if older := {name: of["origin"] for name, of in facts["tasks"].items() if "origin" in of}:
        own = [name for name in facts["tasks"] if name not in older]
        kept = ", ".join(f"`{name}` of version {number}" for name, number in older.items())
        lines.append(f"- Task adapters: {', '.join(f'`{name}`' for name in own) or 'none'} of this version, {kept}")
    if parameters := facts.get("parameters"):
        total, trained = parameters["total"], parameters["trained"]
        lines.append(
            f"- Parameters: {total / 1e6:,.1f}M in all, {trained / 1e6:,.1f}M of them trained ({trained / total:.1%})"
        )
    return "## Made of\n\n" + "\n".join(lines) if lines else ""


def _costs(facts: CardFacts) -> str:
    costs = facts.get("costs", {})
    if not costs:
        return ""
    stages = list(costs)
    rows = []
    for measure in MEASURES:
        if not any(measure.key in cost for cost in costs.values()):
            continue
        cells = [measure.shown(costs[stage]) for stage in stages]
        ratio = share(measure, costs.get("stage_two", {}), costs.get("stage_one", {}))
        rows.append([f"{measure.label} ({measure.unit})" if measure.unit else measure.label, *cells, ratio])
    header = ["", *(stage.replace("_", " ") for stage in stages), "stage two / one"]
    found = facts.get("opening")
    opening = (
        "\n\nRight before the gates opened, the macro score on validation rows was "
        f"{number(found['before'])}, and {number(found['opened'])} with them open, before any step."
        if found
        else ""
    )
    return "## What each stage cost\n\n" + table(header, rows) + opening + _by_task(facts)


def _by_task(facts: CardFacts) -> str:
    """Which tasks the last stage made better, where each ends with its own best."""
    found = facts.get("by_task")
    if found is None:
        return ""
    better = ", ".join(f"`{name}` ({plain(state)})" for name, state in found.items())
    rest = ", ".join(f"`{name}`" for name in facts["tasks"] if name not in found)
    told = [f"better by its own validation loss, and so taken: {better or 'no task'}"]
    told += [f"as they were before: {rest}"] if rest else []
    return f"\n\nAfter the last stage, {'; '.join(told)}."


def known_limits(scorecards: Scorecards) -> list[str]:
    """What this model's scorecard says against it, one sentence each.

    A task is named when its score, with its interval, is not wholly above that of the backbone alone, of always giving
    the commonest label, or of a bag of words or a copy: the promotion rule compares with the champion, which may be as
    bad, and a task that the champion does not have with nothing.
    """
    sentences = []
    baselines = {"zero_shot": "the backbone alone", "majority": "always giving the commonest label"}
    there = [one.key for one in shown_subjects(scorecards) if one.key in baselines]
    for name, task in scorecards[own_scorecard(scorecards)]["tasks"].items():
        score = task["metrics"][task["metric"]]
        others = {baselines[key]: score_of(scorecards, key, name) for key in baselines if key in there}
        measured = f"{task['metric']} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})."
        instead = scorecards["bag_of_words"]["tasks"].get(name) if "bag_of_words" in scorecards else None
        if instead and (by := instead.get("by")) and (value := score_of(scorecards, "bag_of_words", name)) is not None:
            if value > score["value"]:
                sentences.append(f"{by[0].upper()}{by[1:]} is ahead on {name} ({value:.3f}): {measured}")
            else:
                others[by] = value
        if task["rows"] < FEW_ROWS:
            sentences.append(f"{name} was scored on {task['rows']} test rows: its interval is too narrow.")
        if unbeaten := [
            f"{other} ({value:.3f})" for other, value in others.items() if value is not None and score["low"] <= value
        ]:
            sentences.append(f"{name} is not shown to do better than {' or '.join(unbeaten)}: {measured}")
    return sentences


def _limits(facts: CardFacts) -> str:
    always = [
        "It answers the tasks above and nothing else; a text of another kind still gets an answer.",
        "Scores hold for rows like the test rows. Inputs over a task's length limit are cut, and marked `truncated`.",
    ]
    own = map(plain, known_limits(facts["scorecards"]))
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in [*own, *always])


def _versions(facts: CardFacts) -> str:
    made = {**({"created": facts["created"]} if facts.get("created") else {}), **facts.get("versions", {})}
    if not made:
        return ""
    return "## Where it comes from\n\n" + table(["", ""], [[plain(k), plain(v)] for k, v in made.items()], left=2)
