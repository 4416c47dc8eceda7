"""Plots as SVG text: what was measured as points with their spread, predictions as dashed lines."""
import math
from dataclasses import dataclass, field
from typing import List
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM, LEGEND = 760, 270, 78, 20, 34, 40, 17
STYLE = """
  svg { background: #fff; font: 12px sans-serif; }
  text { fill: #333; } .title { font-weight: bold; font-size: 13px; }
  .grid { stroke: #ddd; stroke-width: 1; } .predicted { fill: none; stroke-width: 1.5; stroke-dasharray: 5 4; }
  .measured { fill: none; stroke-width: 2; } .spread { stroke-width: 1.5; }
"""


@dataclass
class Curve:
    name: str
    measured: list = field(default_factory=list)  # (x, y, least, most)
    predicted: list = field(default_factory=list)  # (x, y)


@dataclass
class Panel:
    title: str
    curves: List[Curve]
    log_y: bool = False
    low: float = 0.0  # where y begins, if it is not logarithmic


def _ticks(low, high, log):
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        out = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
        return [value for value in out if low <= value <= high]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(step * m for m in (0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / (step * m) <= 7)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _text(value):
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _colour(index):
    """Hues the golden angle apart: neighbours differ most, however many there are."""
    return f"hsl({round(210 + 137.5 * index) % 360}, 65%, {36 + 14 * (index % 2)}%)"


def _panel(panel, top, counts, colours):
    values = [y for curve in panel.curves for _, y in curve.predicted]
    values += [y for curve in panel.curves for point in curve.measured for y in point[1:]]
    if not values:
        return ""
    low, high = (min(values) / 1.15, max(values) * 1.15) if panel.log_y else (panel.low, max(values) * 1.04)
    scale = math.log10 if panel.log_y else float

    def x(value):
        span = math.log2(counts[-1] / counts[0]) or 1.0
        return LEFT + 20 + math.log2(value / counts[0]) / span * (WIDTH - LEFT - RIGHT - 40)

    def y(value):
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        return top + PANEL - BOTTOM - share * (PANEL - TOP - BOTTOM)

    out = [f'<text class="title" x="{LEFT}" y="{top + 18}">{escape(panel.title)}</text>']
    for tick in _ticks(low, high, panel.log_y):
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_text(round(tick, 9))}</text>')
    for count in counts:
        out.append(f'<text x="{x(count):.1f}" y="{top + PANEL - BOTTOM + 18}" text-anchor="middle">{count}</text>')
    for curve in panel.curves:
        colour = colours[curve.name]
        if curve.predicted:
            line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in curve.predicted)
            out.append(f'<polyline class="predicted" stroke="{colour}" points="{line}"/>')
        if len(curve.measured) > 1:
            line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value, _, _ in curve.measured)
            out.append(f'<polyline class="measured" stroke="{colour}" points="{line}"/>')
        for at, value, least, most in curve.measured:
            out.append(f'<line class="spread" stroke="{colour}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(least):.1f}" '
                       f'y2="{y(most):.1f}"/><circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>')
    return "\n".join(out)


def to_svg(panels, counts, x_label):
    """Panels below each other, in the same colours, with one legend; counts: the numbers of ranks along x."""
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colours = {name: _colour(i) for i, name in enumerate(names)}
    legend_at = PANEL * len(panels) + 16
    height = legend_at + LEGEND * (len(names) + 1) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
             f'height="{height}"><style>{STYLE}</style>']
    parts += [_panel(panel, i * PANEL, counts, colours) for i, panel in enumerate(panels)]
    middle = (WIDTH + LEFT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{legend_at - 8}" text-anchor="middle">{escape(x_label)}</text>')
    for i, name in enumerate(names):
        at = legend_at + LEGEND * (i + 1)
        parts.append(f'<line class="measured" stroke="{colours[name]}" x1="{LEFT}" x2="{LEFT + 24}" y1="{at - 4}" '
                     f'y2="{at - 4}"/><text x="{LEFT + 32}" y="{at}">{escape(name)}</text>')
    return "\n".join(parts + ["</svg>", ""])
