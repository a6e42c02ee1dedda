"""Influence weights as small multiples: why a method resists flips, at a glance."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prefopt.evaluation.figures import BLUE, GREY, _figure, _save

Line = tuple[np.ndarray, np.ndarray]


def weights(curves: Mapping[str, Line], beside: Mapping[str, Line], stem: Path) -> list[Path]:
    """One panel a method, as PNG and SVG; the paths.

    curves: margin [N] and weight [N] by name. beside: what to compare some of them with, drawn in grey.
    """
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    with _figure(2.6 * columns + 0.6, 2.1 * rows + 0.5) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axis, (name, line) in zip(axes, curves.items(), strict=False):
            axis.axhline(0.0, color=GREY, linewidth=0.8)
            axis.axvline(0.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            if name in beside:
                axis.plot(*beside[name], color=GREY, linewidth=1.2, label="with method/robust=none")
            axis.plot(*line, color=BLUE, linewidth=1.6)
            axis.set_title(name)
        for place, axis in enumerate(axes):
            axis.set_visible(place < len(curves))
            axis.tick_params(labelbottom=place + columns >= len(curves))
        figure.supxlabel("implied reward margin of the recorded label (nats)", fontsize=9)
        figure.supylabel("influence, - d loss / d margin", fontsize=9)
        if beside:
            handles, labels = axes[list(curves).index(next(iter(beside)))].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper right")
        return _save(figure, stem)
