"""The grid of learning rates that an arm is tuned on: widened until the best rate is not at its edge."""

from collections.abc import Mapping, Sequence

GRID_STEP = 2.0


def best_rate(tried: Mapping[float, float]) -> float:
    """The rate of the best score; of equally good ones the lower, which is the calmer. tried: scores by rate."""
    return min(tried, key=lambda rate: (-tried[rate], rate))


def is_at_edge(tried: Mapping[float, float]) -> bool:
    """Tell whether the best of several rates is the lowest or the highest one: a better one may lie beyond."""
    return len(tried) > 1 and best_rate(tried) in (min(tried), max(tried))


def rates_to_try(tried: Mapping[float, float], rates: Sequence[float], most: int) -> list[float]:
    """The rates to try next, given the scores of those tried: first the grid `rates`, then what lies beyond the edge
    that is best; none once the best lies inside, or once there are `most`."""
    if not tried:
        return sorted(set(rates))
    if len(tried) >= most or (len(tried) > 1 and not is_at_edge(tried)):
        return []
    best = best_rate(tried)
    lower, higher = best / GRID_STEP, best * GRID_STEP
    if len(tried) == 1:  # both edges at once
        return [lower, higher]
    return [lower if best == min(tried) else higher]
