"""What is told while an ablation goes on."""

from typing import Any

import pytest

from flows.ablate import Told

BEGUN = {"phase": "ablate", "done": 1, "total": 6, "seconds_left": 600.0, "text": "MTA, seed 0", "time": 100.0}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"phase": "train", "step": 60, "steps": 1200, "loss": 0.5}, "MTA, seed 0: train 60/1,200"),
        ({"phase": "cache", "done": 30, "total": 2300, "seconds_left": 7.0}, "MTA, seed 0: cache 30/2,300"),
        ({"phase": "score test", "done": 0, "total": 10}, "MTA, seed 0: score test 0/10"),
    ],
)
def test_a_long_trial_says_how_far_it_is(row: dict[str, Any], text: str) -> None:
    told: list[dict[str, Any]] = []
    follow = Told(lambda done, total, **fields: told.append({"done": done, "total": total, **fields}))
    for each in (BEGUN, {**row, "time": 130.0}, {**row, "time": 900.0}):
        follow(each)
    assert [(one["done"], one["total"], one["seconds_left"]) for one in told] == [(1, 6, 600), (1, 6, 570), (1, 6, 0)]
    assert [one["text"] for one in told] == ["MTA, seed 0", text, text]


def test_what_says_no_progress_and_what_comes_before_the_first_trial_is_not_shown() -> None:
    told: list[Any] = []
    follow = Told(lambda *given, **_: told.append(given))
    follow({"phase": "train", "step": 1, "steps": 2, "time": 1.0})
    follow(BEGUN)
    follow({"phase": "validate", "when": "before", "time": 101.0})
    assert told == [(1, 6)]
