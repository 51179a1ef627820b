"""The model card: what it says, and that nothing in a spec can change what it looks like."""

from typing import Any

import pytest
from markdown_it import MarkdownIt

from registry.calibration import calibration_lines
from registry.card import plain, render_card
from registry.facts import CardFacts, decided, decision_of
from registry.scorecard import champion_lines, known_limits, shown_subjects
from tests.registry.facts import EVIL, card_facts, scorecard


def test_the_card_states_scores_with_intervals_beside_zero_shot_and_champion() -> None:
    row = next(line for line in render_card(card_facts(level=0.7)).splitlines() if line.startswith("| intent |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["intent", "accuracy", "200", "0.300", "0.100", "0.650", "0.680", "**0.700**", "0.660 to 0.740"]


def test_scores_beside_the_champions_are_a_line_each_where_a_table_is_too_wide() -> None:
    cards = card_facts(level=0.7)["scorecards"]
    lines = champion_lines(cards)
    assert lines[0] == "intent (accuracy): 0.700, the champion 0.680"
    assert (len(lines), lines[-1]) == (4, "macro: 0.750, the champion 0.730")
    alone = champion_lines({name: card for name, card in cards.items() if name != "champion"})
    assert alone[0::3] == ["intent (accuracy): 0.700", "macro: 0.750"]


def test_the_first_line_is_a_summary_that_a_list_of_versions_can_show() -> None:
    first = render_card(card_facts(level=0.7)).splitlines()[0]
    assert first == "Macro score 0.750 (0.730 to 0.770) over 3 tasks; the backbone alone 0.150."


def test_the_card_says_how_many_labels_are_to_be_looked_at_and_where() -> None:
    assert "| intent | 12 of 250 | `doubtful/intent.json` |" in render_card(card_facts())
    facts = card_facts()
    task = facts["scorecards"]["stage_two"]["tasks"]["intent"]
    task["doubted"] = {"looked_at": 250, "found": 0, "rows": []}
    assert "| intent | 0 of 250 |  |" in render_card(facts)
    task["doubted"] = {"looked_at": 0, "found": 0, "rows": []}
    assert "| intent | not looked at: too few rows or labels |  |" in render_card(facts)
    del task["doubted"]  # as no version of before has it
    assert "Labels to look at" not in render_card(facts)


def test_the_card_states_temperatures_and_bounds_and_what_they_do() -> None:
    card = render_card(card_facts())
    assert (
        """## Scores as probabilities

- intent: temperature 1.50, from 50 validation rows; expected calibration error 0.081 before, 0.022 after, on 200 test \
rows, in bins of a tenth
- intent: abstains below 0.6, which are 12.5% of test rows; the others score 0.800
"""
        in card
    )
    few = scorecard(0.7, 4)
    few["tasks"]["intent"] |= {"abstention": {"below": 0.6, "share": 1.0, "rest": None}}
    few["tasks"]["intent"]["calibration"] |= {"temperature": None, "reason": "there are 3 validation rows"}
    assert calibration_lines(few) == [
        "intent: no temperature, as there are 3 validation rows; expected calibration error 0.081 on 200 test rows, in "
        "bins of a tenth",
        "intent: abstains below 0.6, which are 100.0% of test rows; none is left",
    ]
    bound = {"below": 0.8314, "precision": 0.95, "kept": 143, "right": 140, "reached": 0.9634}
    few["tasks"]["intent"] |= {"abstention": {"below": 0.8314, "share": 0.18, "rest": 0.9634}}
    few["tasks"]["intent"]["calibration"]["bound"] = bound
    assert calibration_lines(few)[1] == (
        "intent: abstains below 0.831, which is to leave 95.0% of answers right: 140 of 143 validation rows above it "
        "are; 18.0% of 200 test rows abstain, 96.3% of the others are right"
    )
    bound |= {"below": 2.0, "kept": 0, "right": 0, "reached": None}
    assert calibration_lines(few)[1].startswith("intent: abstains always, as its validation rows show no bound that")
    assert (
        "intent abstains always: 50 validation rows show no bound that leaves 95.0% of answers right."
        in known_limits({"stage_two": few})
    )
    older: Any = card_facts()
    older["scorecards"] = {"stage_one": {**few, "tasks": {"title": few["tasks"]["title"]}}}
    assert "Scores as probabilities" not in render_card(older)


def test_the_card_states_data_backbone_licences_costs_decision_and_origin() -> None:
    card = render_card(card_facts())
    for part in (
        "`0123456789abcdef`",
        "Quality: **warn**",
        "CC-BY-4.0",
        "not stated",
        "1,234",
        "licence Apache-2.0",
        "  - weights beside the model that are not read: old.safetensors",
        "150.0M in all, 18.9M of them trained (12.6%)",
        "| training time (s) | 100.0 | 15.0 | 15% |",
        "**Promoted to champion** against champion version 7: macro score +0.021 over 3 tasks.",
        "| run key | aaaabbbbccccdddd |",
        "mlflow models serve -m models:/support@champion --env-manager local",
    ):
        assert part in card, part


def test_a_candidate_that_stays_one_says_why() -> None:
    facts = card_facts()
    facts["decision"] = {"promote": False, "reason": "title falls by 0.200", "numbers": {}}
    assert "**Stays a candidate** against champion version 7: title falls by 0.200." in render_card(facts)


def test_a_decision_that_a_person_took_carries_name_and_reason() -> None:
    facts = card_facts()
    facts["decision"] = {"promote": True, "reason": "rule says no", "by": "Ada", "person_reason": "title is unused"}
    assert "Decided by Ada: title is unused" in render_card(facts)


def test_a_version_that_is_decided_again_is_shown_against_the_champion_of_then() -> None:
    tags = {"decision": "keep", "decision_reason": "the macro score falls", "champion_before": "9"}
    card = render_card(decided(card_facts(), tags))
    assert "**Stays a candidate** against champion version 9: the macro score falls." in card
    assert "champion then |" not in card  # the scores of version 7 are no longer what it was held against
    same = render_card(decided(card_facts(), {**tags, "champion_before": "7"}))
    assert "against champion version 7" in same
    assert "champion then |" in same


def test_a_person_who_promoted_what_the_rule_was_never_asked_about_stands_in_the_card() -> None:
    card = render_card(decided(card_facts(), {"promoted_by": "Ada", "promotion_reason": "try"}))
    assert "**Promoted to champion** against champion version 7: the rule was not asked. Decided by Ada: try" in card


def test_a_rollback_is_told_until_the_version_is_promoted_again_or_the_rule_keeps_it_back() -> None:
    tags = {"decision": "promote", "decision_reason": "better", "promoted": "2026-01-01T10:00:00Z"}
    back = {**tags, "rolled_back": "2026-01-02T10:00:00Z"}
    card = render_card(decided(card_facts(), back))
    assert "**Rolled back on 2026-01-02; it had been promoted to champion** against champion version 7: better." in card
    assert "rolled_back" not in decision_of({**back, "promoted": "2026-01-03T10:00:00Z"})
    assert decision_of({**back, "decision": "keep"}) == {"promote": False, "reason": "better"}


def test_macro_scores_over_other_tasks_do_not_stand_side_by_side() -> None:
    facts = card_facts()
    del facts["scorecards"]["champion"]["tasks"]["due"]  # type: ignore[attr-defined]
    line = next(line for line in render_card(facts).splitlines() if line.startswith("| **macro**"))
    assert [cell.strip() for cell in line.strip("|").split("|")][-3:] == ["", "**0.750**", "0.730 to 0.770"]


def test_few_test_rows_are_a_limit() -> None:
    facts = card_facts()
    facts["scorecards"]["stage_two"]["tasks"]["due"]["rows"] = 5  # type: ignore[index]
    assert "- due was scored on 5 test rows: its interval is too narrow." in render_card(facts)


def test_a_task_that_learnt_nothing_is_named_among_the_limits() -> None:
    facts = card_facts(level=0.32)  # intent: 0.28 to 0.36, where the commonest label gives 0.300
    assert known_limits(facts["scorecards"]) == [
        "intent is not shown to do better than always giving the commonest label (0.300): accuracy 0.320 (0.280 to "
        "0.360)."
    ]
    assert "- intent is not shown to do better than always" in render_card(facts).split("## Limits")[1]
    facts["scorecards"]["zero_shot"] = scorecard(0.31, 1)
    assert [line.split(":")[0] for line in known_limits(facts["scorecards"])] == [
        "intent is not shown to do better than the backbone alone (0.310) or always giving the commonest label (0.300)",
        "title is not shown to do better than the backbone alone (0.360)",
        "due is not shown to do better than the backbone alone (0.410)",
    ]
    assert known_limits({"stage_two": card_facts(level=0.7)["scorecards"]["stage_two"]}) == []


def test_a_bag_of_words_that_is_ahead_is_named_and_one_that_was_not_scored_is_told() -> None:
    facts = card_facts(level=0.7)
    assert "What a bag of words would score was not recorded." in render_card(facts)
    instead: Any = scorecard(0.75, 5)
    instead["tasks"]["intent"] |= {"metrics": {"accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}}
    for name, task in instead["tasks"].items():
        task["by"] = "a bag of words" if name == "intent" else "a copy of the input"
    facts["scorecards"]["bag_of_words"] = instead  # type: ignore[index]
    card = render_card(facts)
    assert "Ahead of a bag of words or copy on 1 of 3 tasks; behind on title, due." in card
    assert "| bag of words or copy |" in card
    assert [line.split(":")[0] for line in known_limits(facts["scorecards"])] == [
        "A copy of the input is ahead on title (0.800)",
        "A copy of the input is ahead on due (0.850)",
    ]


def test_only_domain_tasks_and_scorecards_are_needed() -> None:
    whole = card_facts()
    facts: CardFacts = {
        "domain": whole["domain"],
        "tasks": {"intent": {}},
        "scorecards": {"stage_one": whole["scorecards"]["stage_one"]},
    }
    card = render_card(facts)
    assert "**0.650**" in card
    assert "stage two" not in card


def test_text_of_others_is_shown_as_it_is_and_never_as_markup() -> None:
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(render_card(card_facts()))
    assert "<script>" not in html
    assert "<img" not in html
    assert "javascript:" not in "".join(part.split(">")[0] for part in html.split("<a ")[1:])
    rows = [line for line in html.splitlines() if line == "<tr>"]
    cells = html.count("<td")
    clean = card_facts()
    clean["description"] = "plain"
    for task in clean["tasks"].values():
        task["description"] = "plain"
    other = MarkdownIt("commonmark").enable("table").render(render_card(clean))
    assert (len(rows), cells) == (other.count("<tr>"), other.count("<td"))  # a pipe in a text ends no cell


def test_plain_text_survives_escaping_and_markdown() -> None:
    html = MarkdownIt("commonmark", {"html": True}).renderInline(plain(EVIL))
    assert html == EVIL.replace("<", "&lt;").replace(">", "&gt;")


def test_a_score_over_a_handful_of_rows_is_among_the_limits() -> None:
    facts = card_facts()
    facts["scorecards"]["stage_two"]["tasks"]["due"]["rows"] = 29
    assert known_limits(facts["scorecards"]) == ["due was scored on 29 test rows: its interval is too narrow."]


def test_costs_have_the_units_of_their_rows() -> None:
    facts: Any = card_facts()
    card = render_card(facts)
    assert "energy" not in card  # of a version that was made before it was looked at
    facts["costs"]["stage_one"]["joules"], facts["costs"]["stage_two"]["joules"] = 7200.0, None
    assert "| energy of the machine (Wh) | 2.00 | not measured |  |" in render_card(facts)
    assert "| floating-point operations (TFLOP) | 20.0 | 3.0 | 15% |" in card
    assert "| peak memory (MB) | 2,000 | 1,900 | 95% |" in card
    assert "| trained parameters (M) | 15.90 | 3.00 | 19% |" in card


def test_the_card_tells_what_opening_the_gates_did_where_they_were_opened() -> None:
    facts = card_facts()
    assert "was 0.512, and 0.509 with them open, before any step." in render_card(facts)
    facts["opening"] = {}
    assert "gates opened" not in render_card(facts)


def test_the_card_tells_which_tasks_the_last_stage_made_better_where_tasks_choose() -> None:
    facts = card_facts()
    assert "by its own validation loss" not in render_card(facts)
    facts["by_task"] = {"intent": "step 12"}
    rest = ", ".join(f"`{name}`" for name in facts["tasks"] if name != "intent")
    assert f"and so taken: `intent` (step 12); as they were before: {rest}." in render_card(facts)


def test_the_card_of_a_refresh_tells_which_version_each_tasks_adapters_are_from() -> None:
    facts: Any = card_facts()
    name, *others = facts["tasks"]
    facts["tasks"] = {name: facts["tasks"][name], **{other: {**facts["tasks"][other], "origin": 4} for other in others}}
    kept = ", ".join(f"`{other}` of version 4" for other in others)
    assert f"- Task adapters: `{name}` of this version, {kept}" in render_card(facts)


@pytest.mark.parametrize("own", ["stage_one", "stage_two", "add_task", "refresh"])
def test_the_models_own_scores_come_last_whichever_stage_was_the_last(own: str) -> None:
    cards: Any = {"champion": scorecard(0.6, 1), own: scorecard(0.7, 2), "zero_shot": scorecard(0.1, 3)}
    assert [subject.key for subject in shown_subjects(cards)] == ["majority", "zero_shot", "champion", own]
