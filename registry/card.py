"""The model card: everything a reader needs to judge a version, as Markdown, from plain values."""

from collections.abc import Iterable, Sequence

from registry.calibration import calibration_lines
from registry.costs import MEASURES, share
from registry.facts import CardFacts
from registry.promotion import counted
from registry.scorecard import (
    against_bag_of_words,
    doubted_rows,
    known_limits,
    macro_of,
    number,
    own_scorecard,
    score_of,
    shown_subjects,
    span,
)


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
        _doubted(facts),
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
    macro = own_scorecard(cards)["macro"]
    text = f"Macro score {macro['value']:.3f} ({span(macro)}) over {counted(len(facts['tasks']), 'task')}"
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
    mine = own_scorecard(cards)
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
                span(value),
            ]
        )
    macro = mine["macro"]
    totals = [number(macro_of(cards, one.key)) for one in others]
    rows.append(["**macro**", "mean of the above", "", *totals, f"**{macro['value']:.3f}**", span(macro)])
    against = against_bag_of_words(cards) or "What a bag of words would score was not recorded."
    return f"## Scores on held-out rows\n\n{table(header, rows, left=2)}\n\n{plain(against)}"


def _calibration(facts: CardFacts) -> str:
    lines = calibration_lines(own_scorecard(facts["scorecards"]))
    return "## Scores as probabilities\n\n" + "\n".join(f"- {plain(line)}" for line in lines) if lines else ""


def _doubted(facts: CardFacts) -> str:
    every = doubted_rows(own_scorecard(facts["scorecards"]))
    if not every:
        return ""
    rows = [
        [plain(name), f"{one['found']:,} of {one['looked_at']:,}", f"`doubtful/{name}.json`" if one["found"] else ""]
        if one["looked_at"]
        else [plain(name), "not looked at: too few rows or labels", ""]
        for name, one in every.items()
    ]
    return f"""## Labels to look at

Held-out rows, validation and test, whose label this model finds unlikely: the label is wrong, or the model is. Nothing
was left out for it; a wrong label among the test rows makes a score look worse than it is.

{table(["task", "rows", "file of the MLflow run"], rows)}"""


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
