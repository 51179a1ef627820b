"""Figures from plain values: which are drawn, and that they show the numbers they were given."""

from typing import Any

from matplotlib.figure import Figure

from registry.facts import CardFacts
from registry.figures import (
    confusion_matrix,
    figures_of,
    gate_heatmaps,
    length_histograms,
    loss_curves,
    macro_history,
    png,
    reliability_curves,
    score_bars,
)
from tests.registry.facts import TASKS, card_facts


def words(figure: Figure) -> set[str]:
    return {part.get_text() for part in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_every_figure_that_the_facts_allow_is_drawn() -> None:
    figures = figures_of(card_facts())
    drawn = {"loss", "scores", "gates", "confusion-intent", "reliability", "lengths"}
    assert set(figures) == {f"{name}.png" for name in drawn}
    assert png(figures["scores.png"]).startswith(b"\x89PNG")


def test_facts_without_training_gates_or_lengths_still_give_the_scores() -> None:
    whole = card_facts()
    facts: CardFacts = {
        "domain": "bare",
        "tasks": {"intent": {}},
        "scorecards": {"stage_one": whole["scorecards"]["stage_one"]},
        "gates": {"before": {}, "after": {}},
    }
    intent: Any = facts["scorecards"]["stage_one"]["tasks"]["intent"]
    intent |= {"confusion": None, "calibration": None}
    assert set(figures_of(facts)) == {"scores.png"}


def test_bars_and_whisker_are_as_high_as_the_scores() -> None:
    cards = card_facts(level=0.7)["scorecards"]
    axis = score_bars(cards).axes[0]
    heights = sorted(round(bar.get_height(), 6) for bar in axis.patches)
    given = [
        card["tasks"][task]["metrics"][metric]["value"] for card in cards.values() for task, metric in TASKS.items()
    ]
    assert heights == sorted(round(value, 6) for value in [*given, 0.3])  # and the majority class of the one label task


def test_reliability_is_drawn_before_and_after_the_temperature_and_once_where_there_is_none() -> None:
    found: Any = card_facts()["scorecards"]["stage_two"]["tasks"]["intent"]["calibration"]
    panels = reliability_curves({"intent": found, "few": {**found, "temperature": None}}).axes
    _, before, after = panels[0].lines
    assert before.get_xydata().tolist() == [[0.65, 0.5], [0.95, 0.875]]
    assert after.get_xydata().tolist() == [[0.62, 0.6], [0.85, 0.85]]
    assert len(panels[1].lines) == 2
    assert "after: error 0.022" in words(panels[0].figure)


def test_gates_before_stage_two_may_hold_fewer_adapters_than_after() -> None:
    gates: dict[str, Any] = {
        "before": {"layers.4": {"intent": {"shared": 1.0}}},
        "after": {"layers.4": {"intent": {"shared": 0.25, "intent": 0.75}}, "layers.5": {"intent": {"intent": 1.0}}},
    }
    shown = words(gate_heatmaps(gates, "stage two"))
    assert "0.00" not in shown  # an adapter that was not there has no weight, not a weight of zero
    assert {"0.25", "0.75", "before stage two", "after stage two", "layers.5"} <= shown


def test_the_smoothed_loss_starts_where_the_loss_starts() -> None:
    axis = loss_curves({"stage_one": [{"step": step, "loss": 4.0} for step in range(5)]}).axes[0]
    assert all(abs(value - 4.0) < 1e-9 for line in axis.lines for value in line.get_ydata())


def test_the_history_names_the_champion() -> None:
    rows = [
        {"version": number, "macro": 0.5 + number / 100, "aliases": ["champion"] if number == 2 else [], "tags": {}}
        for number in (3, 2, 1)
    ]
    assert "0.520  champion" in words(macro_history([*rows, {"version": 4, "macro": None, "aliases": [], "tags": {}}]))


def test_length_bars_are_as_high_as_the_rows_of_that_length_in_the_order_of_numbers() -> None:
    spread = {str(tokens): 2 for tokens in range(5, 405)}
    figure = length_histograms({"intent": {"input": spread, "target": {"10": 3, "9": 40}}, "bare": {"input": {}}})
    many, few, *empty = figure.axes
    assert [round(bar.get_height()) for bar in few.patches] == [40, 3]  # 9 before 10, though "10" < "9"
    assert [bar.get_x() + bar.get_width() / 2 for bar in few.patches] == [9, 10]
    assert sum(bar.get_height() for bar in many.patches) == 800
    assert all(bar.get_height() == 0 for axis in empty for bar in axis.patches)
    assert png(figure).startswith(b"\x89PNG")


def test_a_confusion_matrix_has_targets_as_rows_that_sum_to_one() -> None:
    axis = confusion_matrix("intent", ["bill", "card"], [[90, 10], [1, 3]]).axes[0]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("target", "prediction")
    assert axis.images[0].get_array().tolist() == [[0.9, 0.1], [0.25, 0.75]]


def test_a_whisker_reaches_from_the_intervals_low_end_to_its_high_one() -> None:
    cards = card_facts(level=0.7)["scorecards"]
    cards["stage_two"]["tasks"]["intent"]["metrics"]["accuracy"] = {"value": 0.7, "low": 0.6, "high": 0.75}
    whiskers = [part for lines in score_bars(cards).axes[0].collections for part in lines.get_segments()]
    assert (0.6, 0.75) in {tuple(round(float(y), 6) for y in whisker[:, 1]) for whisker in whiskers}


def test_a_version_that_was_never_champion_is_a_hollow_dot() -> None:
    tags: dict[int, dict[str, str]] = {3: {}, 2: {}, 1: {"promoted": "then"}}
    rows = [{"version": n, "macro": 0.5, "aliases": ["champion"] * (n == 3), "tags": tags[n]} for n in tags]
    points = macro_history(rows).axes[0].collections
    assert [tuple(point.get_facecolor()[0][:3]) == (1.0, 1.0, 1.0) for point in points] == [False, True, False]
