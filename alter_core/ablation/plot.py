"""The plot of an ablation: one line an arm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from alter_core.ablation.table import ArmRow, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

What = Literal["macro", "difference"]
_COLOURS = {"mta": "#0b6e4f", "baseline": "#5b6472", "instead": "#cc79a7"}


def draw(table: Table) -> "Figure":
    """Macro scores of a table as `summarise` gives it; beside them what decides, once two arms are compared: paired
    differences to the best baseline."""
    from matplotlib.figure import Figure

    arms = table.arms[::-1]
    reference = table.comparison.baseline if table.comparison else None
    figure = Figure(figsize=(11.0 if reference else 7.5, 1.1 + 0.42 * len(arms)), layout="constrained")
    panels = figure.subplots(1, 2 if reference else 1, sharey=True, squeeze=False)[0]
    _intervals(panels[0], arms, "macro", "{:.3f}", f"macro score on the test rows of {table.domain}")
    panels[0].set_yticks(range(len(arms)), [arm.title for arm in arms])
    panels[0].set_ylim(-0.6, len(arms) - 0.2)
    if reference:
        title = next(arm.title for arm in arms if arm.name == reference)
        panels[1].axvline(0.0, color=_COLOURS["baseline"], linewidth=1)
        _intervals(panels[1], arms, "difference", "{:+.3f}", f"against {title}, paired")
    figure.supxlabel("mean and 95 % interval; small dots are seeds", fontsize="small")
    return figure


def _intervals(axes: "Axes", arms: Sequence[ArmRow], what: What, form: str, label: str) -> None:
    """A line for each arm that has `what`. The axis spans the arms that were trained, so that their differences can be
    seen; of one beyond its edge only the value stands there."""
    axes.margins(x=0.08)
    values = [arm.macro if what == "macro" else arm.difference for arm in arms]
    held = [(place, arm, value) for place, (arm, value) in enumerate(zip(arms, values, strict=True)) if value]
    held.sort(key=lambda one: one[1].rate is None)  # what is drawn first sets the axis's limits
    for place, arm, value in held:
        colour, text = _COLOURS[arm.family], form.format(value.value)
        low, high = axes.get_xlim()
        if axes.lines and arm.rate is None and not low <= value.value <= high:
            left = value.value < low
            text = f"\u25c2 {text}" if left else f"{text} \u25b8"
            axes.annotate(text, (low if left else high, place), ha="left" if left else "right", va="center")
            continue
        axes.plot([value.low, value.high], [place, place], color=colour, linewidth=2.5, alpha=0.55)
        if what == "macro":
            seeds = arm.macro_by_seed
            axes.plot(seeds, [place] * len(seeds), ".", color=colour, alpha=0.5, markersize=5)
        axes.plot([value.value], [place], "o", color=colour, markersize=8)
        axes.annotate(text, (value.value, place), (0, 7), textcoords="offset points", ha="center")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
