"""Figures of a report as SVG text that takes its colours from the page, so that light and dark both work."""

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from tamft.errors import InputError

# Colours that matplotlib draws with and the page's CSS variables that replace them.
INK = "#010203"
SERIES = tuple(f"#0405{i:02x}" for i in range(8))
VARIABLES = {INK: "var(--ink)", **{colour: f"var(--s{i})" for i, colour in enumerate(SERIES)}}
# Shape and dash tell the lines apart where colour does not.
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")


def check_matplotlib() -> None:
    """Raise InputError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise InputError('figures need matplotlib, which is not installed: pip install "tamft[demo]"')


class Line(NamedTuple):
    """A curve. `low` and `high` are the edges of its band (or empty); `number` picks colour, dash and marker.

    None is the baseline's: the colour of the text.
    """

    label: str
    number: int | None
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def lines(
    name: str,
    curves: Sequence[Line],
    *,
    title: str,
    ylabel: str,
    level: float | None = None,
    xlabel: str = "step",
    legend: bool = True,
) -> str:
    """Curves over training steps, or over something else, as an `<svg>` element.

    Args:
        name: unique on the page; becomes part of all ids.
        curves: at least one.
        title: what a screen reader says.
        ylabel: of the vertical axis; `xlabel`: of the other.
        level: where a thin horizontal line marks a value that means something.
        legend: False where the page says which is which.
    """
    figure, axes = _axes()
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.8, alpha=0.5)
    for line in curves:
        colour, dash = _colour(line.number), _dash(line.number)
        if line.low:
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        marker = _marker(line.number) if len(line.steps) < 40 else ""
        look = {"color": colour, "alpha": _alpha(line.number), "marker": marker, "markersize": 3.5}
        axes.plot(line.steps, line.values, dash, label=_plain(line.label), **look)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if legend:
        axes.legend(loc="best", frameon=False, labelcolor=INK)
    return _svg(figure, name, title)


class Search(NamedTuple):
    """Trials of one arm: rates, scores, which is chosen (its place, or None), and the rates that diverged."""

    number: int | None
    rates: Sequence[float]
    scores: Sequence[float]
    chosen: int | None
    lost: Sequence[float]


def sensitivity(name: str, arms: Sequence[Search], *, title: str, ylabel: str, connect: bool) -> str:
    """Scores over learning rates as an `<svg>` element; a ring around what is chosen, a cross where a run diverged.

    `connect`: join the trials of an arm, which makes sense where nothing but the rate changes.
    """
    figure, axes = _axes()
    for arm in arms:
        colour, dash, alpha = _colour(arm.number), _dash(arm.number), _alpha(arm.number)
        order = sorted(range(len(arm.rates)), key=arm.rates.__getitem__)
        rates, scores = [arm.rates[i] for i in order], [arm.scores[i] for i in order]
        look = {"color": colour, "alpha": alpha, "marker": _marker(arm.number), "markersize": 5}
        axes.plot(rates, scores, dash if connect else "", **look)
        if arm.chosen is not None:
            place = (arm.rates[arm.chosen], arm.scores[arm.chosen])
            axes.plot(*place, "o", markersize=12, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.3)
        # at the foot of the picture: what diverged has no score
        foot = axes.get_xaxis_transform()
        axes.plot(arm.lost, [0.03] * len(arm.lost), "x", color=colour, markersize=7, transform=foot, clip_on=False)
    axes.set_xscale("log")
    tried = sorted({rate for arm in arms for rate in (*arm.rates, *arm.lost)})
    if len(tried) <= 6:
        axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
        axes.set_xticks([], minor=True)
    axes.set_xlabel("learning rate")
    axes.set_ylabel(ylabel)
    return _svg(figure, name, title)


class Estimate(NamedTuple):
    """A mean and its interval (or None)."""

    number: int | None
    mean: float
    low: float | None
    high: float | None


def forest(
    name: str, groups: Sequence[tuple[str, Sequence[Estimate]]], *, title: str, xlabel: str, band: float | None = None
) -> str:
    """Means with their intervals, one below the other in groups, as an `<svg>` element; a line marks 0.

    `band`: half the width of the shaded band around 0.
    """
    count = sum(len(estimates) for _, estimates in groups)
    figure, axes = _axes(height=0.9 + 0.24 * (count + 0.6 * len(groups)))
    if band is not None:
        axes.axvspan(-band, band, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(0.0, color=INK, linewidth=0.9, alpha=0.6)
    place, ticks = 0.0, []
    for _, estimates in groups:
        ticks.append(place + (len(estimates) - 1) / 2)
        for estimate in estimates:
            colour = _colour(estimate.number)
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=1.6)
            axes.plot(estimate.mean, place, _marker(estimate.number), color=colour, markersize=6)
            place += 1
        place += 0.6
    axes.set_yticks(ticks, _short([label for label, _ in groups]))
    axes.set_ylim(-0.8, place - 0.8)
    axes.set_xlabel(xlabel)
    axes.locator_params(axis="x", nbins=6)
    return _rows(figure, axes, name, title)


class Series(NamedTuple):
    """Scores of one model; None leaves a gap. `number` picks colour and marker, None those of the baseline."""

    label: str
    number: int | None
    values: Sequence[float | None]

    @property
    def colour(self) -> str:
        return _colour(self.number)

    @property
    def marker(self) -> str:
        return _marker(self.number)

    @property
    def alpha(self) -> float:
        return _alpha(self.number)


def bars(name: str, groups: Sequence[str], series: Sequence[Series], *, title: str) -> str:
    """Horizontal bars as an `<svg>` element: one group per task or type, one bar per model.

    The page says which is which: a legend in the picture would be too wide for a phone.
    """
    figure, axes = _axes(height=0.9 + 0.22 * len(groups) * (len(series) + 1))
    height = 1 / (len(series) + 1)
    for i, one in enumerate(series):
        places = [g + i * height for g in range(len(groups))]
        shown = [value if value is not None else 0.0 for value in one.values]
        drawn = axes.barh(places, shown, height * 0.9, color=one.colour, alpha=one.alpha)
        texts = ["" if value is None else f"{value:.3f}" for value in one.values]
        axes.bar_label(drawn, texts, padding=3, fontsize=8, color=INK)
    axes.set_yticks([g + height * (len(series) - 1) / 2 for g in range(len(groups))], _short(groups))
    known = _known(series)
    axes.set_xlim(min([0.0, *known]), max([1.0, *known]) * 1.08)
    return _rows(figure, axes, name, title)


def dots(name: str, groups: Sequence[str], series: Sequence[Series], *, title: str) -> str:
    """One line per task as an `<svg>` element, a marker for each model's score, a bar from lowest to highest."""
    figure, axes = _axes(height=0.8 + 0.26 * len(groups))
    for g in range(len(groups)):
        values = [one.values[g] for one in series if one.values[g] is not None]
        if values:
            axes.plot([min(values), max(values)], [g, g], color=INK, alpha=0.25, linewidth=1.5)
    for one in series:
        points = [(value, g) for g, value in enumerate(one.values) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), one.marker, color=one.colour, alpha=max(one.alpha, 0.7), markersize=5)
    axes.set_yticks(range(len(groups)), _short(groups))
    axes.set_ylim(-0.6, len(groups) - 0.4)
    known = _known(series)
    if known:  # dots need no zero: the range of the scores, widened to tenths
        axes.set_xlim(math.floor(10 * min(known) - 0.2) / 10, math.ceil(10 * max(known) + 0.2) / 10)
    return _rows(figure, axes, name, title)


def _colour(number: int | None) -> str:
    return INK if number is None else SERIES[number % 8]


def _alpha(number: int | None) -> float:
    return 0.45 if number is None else 1.0


def shape(number: int) -> int:
    """Which of the four markers and dashes a series has: a colour that comes again has another one."""
    return (number + number // 8) % 4


def _dash(number: int | None) -> str:
    return "-" if number is None else DASHES[shape(number)]


def _marker(number: int | None) -> str:
    return "s" if number is None else MARKERS[shape(number)]


def _known(series: Sequence[Series]) -> list[float]:
    return [value for one in series for value in one.values if value is not None]


def _short(names: Sequence[str]) -> list[str]:
    """Long names would leave the picture no room; the table next to it has them whole."""
    return [_plain(name if len(name) <= 26 else f"{name[:25]}…") for name in names]


def _plain(name: str) -> str:
    """A name as it is: between dollar signs matplotlib would read mathematics, and refuse what is none."""
    return name.replace("$", r"\$")


def _rows(figure: Any, axes: Any, name: str, title: str) -> str:
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return _svg(figure, name, title)


def _axes(height: float = 3.1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(5.2, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    return figure, axes


def _svg(figure: Any, name: str, title: str) -> str:
    import matplotlib as mpl

    stream = io.StringIO()
    # The browser has the letters that matplotlib's own font has not.
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "legend.fontsize": 9}),
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several figures share one page: their ids must differ.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    # The size is the page's business; the view box keeps the shape.
    head, end, body = text.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(title)}"{end}{body}'
