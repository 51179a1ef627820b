"""The report of a domain for people who will not open MLflow: one HTML file that needs nothing else."""

import base64
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from registry.card import render_card
from registry.facts import CardFacts
from registry.figures import figures_of, macro_history, png
from registry.scorecard import Sample, Scorecard, doubted_rows, own_scorecard
from registry.versions import Version

TEMPLATE = "report.html.j2"
MOST_DOUBTED = 10
"""Rows of a task that are shown as probably labelled wrong; the run's file has more."""


def render_report(facts: CardFacts, versions: Sequence[Version], shown: int) -> str:
    """One page on version `shown` of a domain, with the history of all `versions` (as `ModelStore.versions` gives).

    Every text from specs, labels and rows is escaped; the page holds no script and its policy forbids fetching. Raises
    ValueError when `shown` is not among the versions.
    """
    rows = [{**row, "created": _date(row["created"])} for row in versions]
    mine = next((row for row in rows if row["version"] == shown), None)
    if mine is None:
        raise ValueError(f"version {shown} is not among {', '.join(str(row['version']) for row in rows) or 'none'}")
    figures = {**figures_of(facts), "history.png": macro_history(versions)}
    # CSS pixels are 1/96 inch: at its own size, text in every figure is as large as its font says.
    pictures = {
        name: (round(figure.get_figwidth() * 96), base64.b64encode(png(figure)).decode())
        for name, figure in figures.items()
    }
    cards = facts["scorecards"]
    own = own_scorecard(cards)

    def picture(name: str, caption: str) -> Markup:
        if name not in pictures:
            return Markup("<p>Nothing was recorded.</p>")
        width, data = pictures[name]
        image = '<img alt="{caption}" width="{width}" src="data:image/png;base64,{data}">'
        page = f"<figure>{image}<figcaption>{{caption}}</figcaption></figure>"
        return Markup(page).format(caption=caption, width=width, data=data)

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("registry").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        domain=facts["domain"],
        facts=_whole(facts),
        shown=mine,
        versions=rows,
        macro=own["macro"],
        zero_shot=cards["zero_shot"]["macro"]["value"] if "zero_shot" in cards else None,
        quality=facts.get("data", {}).get("quality", {}).get("outcome"),
        samples=[{"truncated": False, "score": None, **row, **_mark(row, own)} for row in own.get("samples", ())],
        doubted={name: found for name, found in doubted_rows(own).items() if found["rows"]},
        most_doubted=MOST_DOUBTED,
        confusions=sorted(name for name in pictures if name.startswith("confusion-")),
        reliability="reliability.png" in pictures,
        picture=picture,
        card=_html(_untitled(render_card(facts))),
        generated=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _mark(row: Sample, own: Scorecard) -> dict[str, str]:
    """How right an answer is by its task's metric: a tick, a cross, or the row's score between them."""
    score = own.get("row_scores", {}).get(row["task"], {}).get(row.get("id", ""))
    if score is None:
        score = float(row["prediction"] == row.get("target"))
    if score in (0.0, 1.0):
        return {"mark": "✓" if score else "✗", "rightness": "right" if score else "wrong"}
    return {"mark": f"{score:.2f}", "rightness": "partly"}


def _whole(facts: CardFacts) -> Mapping[str, object]:
    """Facts with the parts that the page asks for; a misspelt name in the template still fails."""
    return {"description": "", "parameters": None, "decision": None, **facts}


def _untitled(card: str) -> str:
    """The card without its first heading: the page has its own."""
    return "\n".join(line for line in card.splitlines() if not line.startswith("# "))


def _html(markdown: str) -> Markup:
    """Markdown as HTML. Raw HTML in it is shown as text; headings go one level down, below the page's own."""
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").disable(["image", "autolink"])
    text = parser.render(markdown)
    for level in (3, 2, 1):
        text = text.replace(f"<h{level}>", f"<h{level + 1}>").replace(f"</h{level}>", f"</h{level + 1}>")
    text = text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(text)  # safe: the parser escapes what is not Markdown


def _date(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(milliseconds / 1000))
