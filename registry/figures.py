"""Figures of one version, from plain values: what the MLflow run and the HTML report show."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from registry.facts import CardFacts
from registry.scorecard import Calibration, Scorecards, own_scorecard, own_subject, score_of, shown_subjects
from registry.versions import Version

BLUE, ORANGE, GREEN, SKY = "#0072b2", "#e69f00", "#009e73", "#56b4e9"
LAST_STAGE = {
    "stage_one": "stage one",
    "stage_two": "stage two",
    "add_task": "adding the task",
    "refresh": "the refresh",
}
STAGE_COLOURS = (SKY, BLUE, GREEN, ORANGE)
DPI = 144
SMOOTHED = 0.9  # of the loss curve: weight of what went before
DARK = 0.6  # shade from which numbers are white
NAMED_CELLS = 225  # a matrix with more cells shows colours only
LONGEST_NAME = 24
MOST_BARS = 30  # of a histogram


def figures_of(facts: CardFacts) -> dict[str, Figure]:
    """Every figure that the facts allow: file name -> figure."""
    figures: dict[str, Figure] = {}
    if training := facts.get("training"):
        figures["loss.png"] = loss_curves(training)
    figures["scores.png"] = score_bars(facts["scorecards"])
    # Before the last stage there may be no gates yet: then only what came after is drawn.
    if gates := {moment: table for moment, table in facts.get("gates", {}).items() if table}:
        figures["gates.png"] = gate_heatmaps(gates, LAST_STAGE[own_subject(facts["scorecards"])])
    mine = own_scorecard(facts["scorecards"])
    for task, score in mine["tasks"].items():
        if confusion := score.get("confusion"):
            figures[f"confusion-{task}.png"] = confusion_matrix(task, confusion["labels"], confusion["counts"])
    if calibrations := {task: found for task, score in mine["tasks"].items() if (found := score.get("calibration"))}:
        figures["reliability.png"] = reliability_curves(calibrations)
    if lengths := facts.get("lengths"):
        figures["lengths.png"] = length_histograms(lengths)
    return figures


def loss_curves(training: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss per step, one panel per stage side by side on one scale. training: stage -> rows {"step", "loss"}."""
    stages = {name: [row for row in rows if row.get("loss") is not None] for name, rows in training.items()}
    figure = _figure(4.2 * max(1, len(stages)), 3.2)
    panels = figure.subplots(1, max(1, len(stages)), sharey=True, squeeze=False)[0]
    for place, (axis, (name, rows)) in enumerate(zip(panels, stages.items(), strict=False)):
        steps, losses = [row["step"] for row in rows], [float(row["loss"]) for row in rows]
        colour = STAGE_COLOURS[place % len(STAGE_COLOURS)]
        axis.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(steps, _smoothed(losses), color=colour, linewidth=1.8)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        _plain(axis)
    panels[0].set_ylabel("loss (nats per target token)", fontsize=9)
    return figure


def score_bars(scorecards: Scorecards) -> Figure:
    """Each task's score beside its baselines; the whisker is the model's own interval."""
    own = own_subject(scorecards)
    mine = scorecards[own]
    tasks = list(mine["tasks"])
    shown = shown_subjects(scorecards)
    figure = _figure(1.8 + max(len(tasks), 2) * (0.5 + 0.26 * len(shown)), 3.6)
    axis = figure.subplots()
    width = 0.8 / len(shown)
    for place, subject in enumerate(shown):
        for number, task in enumerate(tasks):
            score = score_of(scorecards, subject.key, task)
            if score is None:
                continue
            x = number - 0.4 + (place + 0.5) * width
            bar = axis.bar(x, score, width * 0.92, color=subject.colour)
            bar.set_label(subject.label)
            if subject.key == own:
                value = mine["tasks"][task]["metrics"][mine["tasks"][task]["metric"]]
                low, high = value["value"] - value["low"], value["high"] - value["value"]
                axis.errorbar(x, value["value"], [[max(low, 0)], [max(high, 0)]], color="black", linewidth=1, capsize=2)
                axis.text(x, value["high"] + 0.015, f"{value['value']:.2f}", ha="center", va="bottom", fontsize=8)
    names = [f"{_cut(task)}\n{mine['tasks'][task]['metric']}" for task in tasks]
    axis.set_xticks(range(len(tasks)), names, fontsize=8)
    axis.set_ylim(0, 1.1)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), ncols=len(shown), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8,
                frameon=False, borderaxespad=0.2, columnspacing=1.2, handlelength=1.2)  # fmt: skip
    _plain(axis)
    return figure


def gate_heatmaps(gates: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], stage: str) -> Figure:
    """Gate weights in 0..1. gates: moment ("before", "after" the stage) -> layer -> task -> adapter -> weight.

    One column per moment, one row per MTA layer; rows of a panel are tasks, its columns adapters.
    """
    rows_of = [rows for table in gates.values() for rows in table.values()]
    layers = list(dict.fromkeys(layer for table in gates.values() for layer in table))
    tasks = list(dict.fromkeys(task for rows in rows_of for task in rows))
    adapters = list(dict.fromkeys(name for rows in rows_of for weights in rows.values() for name in weights))
    wide, high = 1.6 + 0.42 * len(adapters), 0.5 + 0.3 * len(tasks)
    figure = _figure(len(gates) * wide + 1.2, len(layers) * high + 1.2)
    panels = figure.subplots(len(layers), len(gates), squeeze=False, sharex=True, sharey=True)
    for column, (moment, table) in enumerate(gates.items()):
        for line, layer in enumerate(layers):
            axis = panels[line][column]
            rows = table.get(layer, {})
            weights = [[rows.get(task, {}).get(adapter, math.nan) for adapter in adapters] for task in tasks]
            image = _heat_map(axis, weights, adapters, tasks, 7, aspect="auto")
            _numbers(axis, weights, "{:.2f}", weights)
            if line == 0:
                axis.set_title(f"{moment} {stage}" if moment in ("before", "after") else moment, fontsize=9)
            if column == 0:
                axis.set_ylabel(_cut(layer), fontsize=8)
    _colour_bar(figure.colorbar(image, ax=panels.ravel().tolist(), shrink=0.9, aspect=30, pad=0.02), "gate weight")
    return figure


def confusion_matrix(task: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Targets down, predictions across; colours are shares of a target's rows, numbers are rows."""
    shares = [[n / max(sum(line), 1) for n in line] for line in counts]
    side = min(1.6 + 0.42 * len(labels), 11)
    figure = _figure(side + 1.2, side)
    axis = figure.subplots()
    image = _heat_map(axis, shares, labels, labels, 8)
    if len(labels) ** 2 <= NAMED_CELLS:
        _numbers(axis, counts, "{:d}", shares)
    axis.set_xlabel("prediction", fontsize=9)
    axis.set_ylabel("target", fontsize=9)
    axis.set_title(task, fontsize=10)
    _colour_bar(figure.colorbar(image, ax=axis, shrink=0.8), "share of the target's rows")
    return figure


def reliability_curves(calibrations: Mapping[str, Calibration]) -> Figure:
    """Share of right answers by score, of test rows in bins, before and after the temperature; one panel per task."""
    across = min(len(calibrations), 3)
    lines = math.ceil(len(calibrations) / across)
    figure = _figure(3.4 * across, 3.4 * lines)
    panels = figure.subplots(lines, across, sharey=True, squeeze=False)
    for axis in panels.flat[len(calibrations) :]:
        axis.remove()
    for axis, (task, found) in zip(panels.flat, calibrations.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="#8a8f98", linewidth=0.8, linestyle=":")
        sides = [("before", found["before"], ORANGE)]
        sides += [] if found["temperature"] is None else [("after", found["after"], BLUE)]
        for name, side, colour in sides:
            means, shares, rows = zip(*side["bins"], strict=True)
            axis.plot(means, shares, color=colour, linewidth=1.2, label=f"{name}: error {side['error']:.3f}")
            axis.scatter(means, shares, [6 + 120 * n / sum(rows) for n in rows], color=colour, alpha=0.7)
        axis.set_title(_cut(task), fontsize=10)
        axis.set_xlabel("score", fontsize=9)
        axis.set_xlim(0, 1.02)
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize=8, frameon=False, loc="upper left")
        _plain(axis)
    for axis in panels[:, 0]:
        axis.set_ylabel("share that is right", fontsize=9)
    return figure


def length_histograms(lengths: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Rows by length in tokens; one panel per task and side. lengths: task -> "input", "target" -> {tokens: rows}.

    Keys may be texts, as JSON's are.
    """
    figure = _figure(8.4, 0.6 + 1.5 * len(lengths))
    panels = figure.subplots(len(lengths), 2, squeeze=False)
    for line, (task, held) in enumerate(lengths.items()):
        for axis, side, colour in zip(panels[line], ("input", "target"), (BLUE, GREEN), strict=True):
            rows = sorted((int(tokens), count) for tokens, count in held.get(side, {}).items())
            values, weights = [tokens for tokens, _ in rows], [count for _, count in rows]
            # Bars of a whole number of lengths each: any other width makes a comb of what are whole numbers.
            wide = -(-(values[-1] - values[0] + 1) // MOST_BARS) if values else 1
            bins = [n - 0.5 for n in range(values[0], values[-1] + wide + 1, wide)] if values else 1
            axis.hist(values, bins=bins, weights=weights, color=colour, edgecolor="white", linewidth=0.4)
            axis.set_title(f"{_cut(task)}: {side}", fontsize=9, loc="left")
            axis.yaxis.get_major_locator().set_params(integer=True, nbins=3)
            axis.xaxis.get_major_locator().set_params(integer=True)
            _plain(axis)
        panels[line][0].set_ylabel("rows", fontsize=9)
    for axis in panels[-1]:
        axis.set_xlabel("tokens", fontsize=9)
    return figure


def macro_history(versions: Sequence[Version]) -> Figure:
    """Macro score by version number; those that were champions are filled. versions: rows of `ModelStore.versions`."""
    rows = sorted((row for row in versions if row["macro"] is not None), key=lambda row: row["version"])
    figure = _figure(7.2, 2.4)
    axis = figure.subplots()
    numbers, values = [row["version"] for row in rows], [row["macro"] or 0.0 for row in rows]
    axis.plot(numbers, values, color="#c9ccd1", linewidth=1.2, zorder=1)
    for row, number, value in zip(rows, numbers, values, strict=True):
        champion = "champion" in row["aliases"]
        was = "promoted" in row["tags"]
        face = BLUE if was or champion else "white"
        axis.scatter(number, value, s=70 if champion else 42, color=face, edgecolors=BLUE, zorder=2)
        text = f"{value:.3f}" + ("  champion" if champion else "")
        axis.annotate(text, (number, value), (0, 9), textcoords="offset points", ha="center", fontsize=7.5)
    axis.set_xlabel("version (filled: was promoted)", fontsize=9)
    axis.set_ylabel("macro score", fontsize=9)
    axis.margins(x=0.12, y=0.35)
    axis.set_xticks(numbers if len(numbers) <= 25 else numbers[:: len(numbers) // 20])
    _plain(axis)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    from io import BytesIO

    sink = BytesIO()
    figure.savefig(sink, format="png", dpi=DPI)
    return sink.getvalue()


def _figure(wide: float, high: float) -> Figure:
    # By hand, without pyplot: that would hold every figure, and may look for a display.
    return Figure(figsize=(wide, high), dpi=DPI, layout="constrained")


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)


def _heat_map(
    axis: Any, shades: Sequence[Sequence[float]], across: Sequence[str], down: Sequence[str], size: int, **shown: Any
) -> Any:
    """The image of shades in 0..1, with names in `size` points."""
    image = axis.imshow(shades, vmin=0, vmax=1, cmap="Blues", **shown)
    axis.set_xticks(range(len(across)), map(_cut, across), rotation=45, ha="right", fontsize=size)
    axis.set_yticks(range(len(down)), map(_cut, down), fontsize=size)
    axis.tick_params(length=0)
    return image


def _numbers(axis: Any, values: Sequence[Sequence[float]], form: str, shades: Sequence[Sequence[float]]) -> None:
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if not math.isnan(value):  # no such adapter there and then
                colour = "white" if shades[y][x] > DARK else "#33373d"
                axis.text(x, y, form.format(value), ha="center", va="center", fontsize=6.5, color=colour)


def _colour_bar(bar: Any, label: str) -> None:
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean without the pull towards zero at its start (Kingma and Ba 2015, section 3)."""
    held, weight, out = 0.0, 0.0, []
    for value in values:
        held, weight = SMOOTHED * held + (1 - SMOOTHED) * value, SMOOTHED * weight + 1 - SMOOTHED
        out.append(held / weight)
    return out


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
