"""One look for all plots: palette, marks, sheet and PNG bytes; matplotlib is imported here, and only when asked.

Figures are made through the object API, never pyplot, so that no window system and no global figure list is
involved. A user's own matplotlibrc has no say, and the bytes of a plot depend on its numbers and the installed
matplotlib alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from anymask.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GREY",
    "INK",
    "PALETTE",
    "VERDICT_LOOKS",
    "legend_above",
    "look",
    "new_figure",
    "png_bytes",
    "style",
]

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Colours that stay apart under every common colour blindness (Okabe and Ito 2008), in order of use."""
MARKS: Final = ("o", "s", "D", "^", "v", "P", "X", "p")
"""Shapes; their number has no common divisor with the palette's, so 56 models look different."""
VERDICT_LOOKS: Final = {
    "better": ("#009E73", "^"),
    "worse": ("#D55E00", "v"),
    "undecided": ("#6B6B6B", "o"),
}
"""Colour and mark of a verdict of `anymask.evaluation.comparison`."""
INK: Final = "#222222"
GREY: Final = "#6B6B6B"

DOTS_PER_INCH: Final = 200
"""Eight inches give 1600 pixels; shown at half that, letters are still 13 pixels high."""

_STYLE: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9A9A9A",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.dpi": DOTS_PER_INCH,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a model's name is a dollar sign
    "xtick.color": "#4D4D4D",
    "ytick.color": "#4D4D4D",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with this module's look, for as long as the block lasts.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.style import context
    except ImportError as error:
        raise MissingExtraError(
            "Plots need matplotlib; install it with: pip install 'anymask[eval]'."
        ) from error
    with context(["default", _STYLE]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty sheet of so many inches, at most 8 wide; call it inside `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The sheet as PNG, without the program's name and the date, so that equal plots are equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()


def look(index: int) -> dict[str, Any]:
    """Colour and mark of the model with this number, as keywords of ``Axes.plot``."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKS[index % len(MARKS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }


def legend_above(axes: Axes, handles: list[Any], labels: list[str], columns: int) -> None:
    """A legend over the axes' left end, where it hides no data."""
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.3,
        handletextpad=0.5,
        columnspacing=1.6,
    )
