"""The report page of a version, as text; test_pages.py looks at it in a browser."""

from registry.facts import CardFacts
from registry.report import render_report
from tests.registry.facts import card_facts


def test_the_report_of_an_older_version_that_was_refused_is_about_that_one() -> None:
    refused = {"promote": False, "reason": "title falls", "numbers": {}}
    facts: CardFacts = {**card_facts(), "decision": refused}
    facts["scorecards"]["stage_two"]["row_scores"]["intent"]["intent-1"] = 0.5
    rows = [
        {"version": n, "macro": n / 10, "aliases": ["champion"] * (n == 2), "tags": {}, "created": n * 86_400_000}
        for n in (2, 1)
    ]
    text = render_report(facts, rows, 1)
    assert '<span class="mark">version 1</span>' in text
    assert "<strong>Not promoted:</strong> title falls." in text
    assert "0.50 bill" in text


def test_labels_to_look_at_are_shown_up_to_a_number_and_escaped() -> None:
    rows = [{"version": 1, "macro": 0.7, "aliases": ["champion"], "tags": {}, "created": 86_400_000}]
    text = render_report(card_facts(), rows, 1)
    assert "intent: 12 of 250 rows, of which these 10 are the least likely" in text
    assert "rows.jsonl:9" in text
    assert "rows.jsonl:10" not in text
    assert "<script>" not in text
