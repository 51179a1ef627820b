"""draw_gates: gate tables as a heatmap, one panel per MTA layer."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

GateTable = Mapping[str, Mapping[str, Mapping[str, float]]]


def draw_gates(table: GateTable, path: Path) -> Path:
    """Write `MTAModel.gate_table()` to `path` (the suffix chooses the format) and return it.

    Rows are tasks, columns adapters, colour the weight from 0 to 1.
    """
    tasks = max((len(rows) for rows in table.values()), default=1)
    adapters = max((len(row) for rows in table.values() for row in rows.values()), default=1)
    # Figure and canvas by hand: pyplot would hold global state, and may look for a display.
    figure = Figure(figsize=(2.2 + 0.5 * adapters, max(1, len(table)) * (1.2 + 0.4 * tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(table)), 1, squeeze=False)[:, 0]
    for axis, (layer, rows) in zip(axes, table.items(), strict=False):
        names = list(next(iter(rows.values())))
        weights = [[row[name] for name in names] for row in rows.values()]
        image = axis.imshow(weights, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_title(layer)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axis.set_yticks(range(len(rows)), list(rows))
        for y, row in enumerate(weights):
            for x, weight in enumerate(row):
                axis.text(x, y, f"{weight:.2f}", ha="center", va="center", color="black" if weight > 0.6 else "white")
        figure.colorbar(image, ax=axis)
    figure.savefig(path)
    return path
