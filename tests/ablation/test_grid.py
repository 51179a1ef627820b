"""Which learning rates an arm is tuned on."""

import pytest

from alter_core.ablation.grid import best_rate, is_at_edge, rates_to_try


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ({}, [1e-3, 2e-3]),
        ({1e-3: 0.5, 2e-3: 0.6}, [4e-3]),
        ({1e-3: 0.6, 2e-3: 0.5}, [5e-4]),
        ({1e-3: 0.5, 2e-3: 0.5}, [5e-4]),  # of equals the lower
        ({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.4}, []),
        ({2e-3: 0.6}, [1e-3, 4e-3]),
    ],
)
def test_a_grid_is_widened_beyond_the_edge_that_is_best(tried: dict[float, float], wanted: list[float]) -> None:
    assert rates_to_try(tried, (2e-3, 1e-3), most=9) == wanted


def test_a_grid_at_its_limit_stays_there_and_says_so() -> None:
    tried = {1e-3: 0.5, 2e-3: 0.6}
    assert rates_to_try(tried, (1e-3, 2e-3), most=2) == []
    assert (best_rate(tried), is_at_edge(tried)) == (2e-3, True)
    assert not is_at_edge({**tried, 4e-3: 0.4})
    assert not is_at_edge({2e-3: 0.6})  # one rate was not tuned, which the table says
