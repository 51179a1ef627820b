"""The room in short: answers are held against targets, and a scorecard says how good they are and how sure that is."""

from alter_core.evaluation.scorecard import score
from alter_core.inference.prediction import Prediction
from alter_core.spec import DomainSpec


def test_a_scorecard_has_a_value_and_an_interval_per_task_and_in_all(spec: DomainSpec) -> None:
    rows = [{"task": "fits", "id": f"row-{n}", "input": "x", "target": "yes"} for n in range(20)]
    answers = [Prediction("yes" if n < 15 else "no", 0.9, False) for n in range(20)]
    card = score(answers, rows, spec)
    assert (card.tasks["fits"].score, card.macro.value) == (0.75, 0.75)
    assert card.macro.low < 0.75 < card.macro.high
    assert card.row_scores["fits"]["row-0"] == 1  # for comparing two models row by row
