"""What a person reads at the end of a run."""

from flows.cli import summary
from flows.production.outcome import Outcome
from tests.registry.facts import card_facts


def test_stage_twos_cost_is_told_as_a_share_of_stage_ones() -> None:
    text = summary.stage_two_cost(card_facts()["costs"])
    assert "training time 15.0 s of stage one's 100.0 s (15%)" in text
    assert "floating-point operations 3.0 TFLOP of stage one's 20.0 TFLOP (15%)" in text


def test_a_candidate_that_was_refused_can_be_promoted_and_a_champion_need_not() -> None:
    refused, promoted = (Outcome("tiny", status, 1, "key") for status in ("candidate", "champion"))
    assert "alter promote tiny --reason" in summary._next_commands("tiny", refused)
    assert "alter promote" not in summary._next_commands("tiny", promoted)
