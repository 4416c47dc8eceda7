"""From the lines of measurements: tables and plots, each number beside its prediction."""
import draw
import points
from measure import gpu_times, median
from predict import predict

TITLES = {
    "weak": "As much work for every rank, data parallel",
    "strong": "The same work over more ranks, data parallel",
    "pipeline": "Stages, and stages with replicas",
    "precision": "By precision",
    "wire": "By wire format of the gradients",
}
COLUMNS = ("ranks", "replicas x stages", "ms a step (least, most)", "tokens/s", "efficiency", "predicted ms",
           "predicted efficiency", "predicted / measured", "MB sent: gradients, weights", "exposed ms")


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _tokens(lines, of):
    """Tokens/s of such lines, at the median, the least or the most of their steps; None: there are none."""
    return lines[0]["batch"] * lines[0]["sequence"] / of([line["step_ms"] for line in lines]) * 1e3 if lines else None


class Point:
    """What is known of a point: measured, predicted, or why neither."""

    def __init__(self, machine, found, point):
        self.point = point
        self.lines = found.of(points.work(point))
        self.prediction = predict(machine, found, point)
        self.ones = found.of(points.work(points.one_rank(point)))
        lacks = machine.lacks(point.ranks)
        self.missing = f"not measured: {lacks}" if lacks else found.failure(points.work(point)) or "not measured"

    def tokens(self):
        """At the median of the repetitions' steps, and at the slowest and the fastest."""
        return tuple(_tokens(self.lines, of) for of in (median, max, min)) if self.lines else None

    def efficiency(self, tokens):
        if not self.ones:
            return None
        apart = gpu_times(self.ones)[:self.point.ranks]
        apart += apart[:1] * (self.point.ranks - len(apart))  # those that the machine lacks
        one = self.ones[0]
        return tokens / sum(one["batch"] * one["sequence"] / ms * 1e3 for ms in apart)

    def cells(self):
        planned = self.prediction
        cells = [str(self.point.ranks), self.point.grid]
        times = [line["step_ms"] for line in self.lines]
        if self.lines:
            one = self.efficiency(self.tokens()[0])
            cells += [f"{median(times):.2f} ({min(times):.2f}, {max(times):.2f})", f"{self.tokens()[0]:,.0f}",
                      f"{100 * one:.1f} %" if one else "-"]
        else:
            cells += [self.missing, "", ""]
        if planned:
            foreseen = self.efficiency(planned["tokens_per_s"])
            cells += [f"{planned['step_ms']:.2f}", f"{100 * foreseen:.1f} %" if foreseen else "-",
                      f"{planned['step_ms'] / median(times):.3f}" if times else ""]
        else:
            cells += ["-", "-", ""]
        if self.lines:
            sent = [median([line[key] for line in self.lines]) / 1e6 for key in ("gradient_bytes", "weight_bytes")]
            exposed = median([line["exposed_ms"] for line in self.lines])
            return cells + [f"{sent[0]:.1f}, {sent[1]:.1f}", f"{exposed:.2f}"]
        return cells + ["", ""]


def _table(series):
    out = [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    out += [_row(one.cells()) for one in series]
    apart = dict.fromkeys(", ".join(f"{ms:.2f}" for ms in gpu_times(one.ones)) for one in series
                          if one.ones and len(gpu_times(one.ones)) > 1)
    return out + (["", f"Each GPU by itself, all at the same time, ms: {'; '.join(apart)}."] if apart else [])


def _curves(all_series, value):
    curves = []
    for name, series in all_series.items():
        curve = draw.Curve(name)
        for one in series:
            if one.lines:
                values = [value(one, tokens) for tokens in one.tokens()]
                if None not in values:
                    curve.measured.append((one.point.ranks, *values))
            if one.prediction and value(one, one.prediction["tokens_per_s"]) is not None:
                curve.predicted.append((one.point.ranks, value(one, one.prediction["tokens_per_s"])))
        curves.append(curve)
    return curves


def _bits(chosen, found, machine):
    """Whether losses and gradient norms of all steps are the same on every number of ranks."""
    mine = [point for point in chosen if point.figure == points.BITS_FIGURE]
    if not mine:
        return []
    reference = next((found.of(points.work(point)) for point in mine if point.ranks == 1), [])
    out = ["## The same bits", "", "Losses and gradient norms of all steps, beside those of one rank.", "",
           _row(("ranks", "replicas x stages", "steps", "")), _row(["---"] * 4)]
    for point in mine:
        lines, lacks = found.of(points.work(point)), machine.lacks(point.ranks)
        if not lines or not reference:
            said = f"not measured: {lacks}" if lacks else found.failure(points.work(point)) or "not measured"
        elif lines[0]["losses"] == reference[0]["losses"]:
            said = "the same bits"
        else:
            pairs = zip(lines[0]["losses"], reference[0]["losses"])
            step = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), "the last")
            said = f"DIFFERENT from step {step} on"
        out.append(_row((str(point.ranks), point.grid, str(len(lines[0]["losses"])) if lines else "", said)))
    return out + [""]


def differs(chosen, found):
    """Whether some run of the comparison of bits has others than one rank."""
    mine = [found.of(points.work(point)) for point in chosen if point.figure == points.BITS_FIGURE]
    return len({repr(lines[0]["losses"]) for lines in mine if lines}) > 1


def write(machine, found, chosen, counts):
    """report.md and a plot for each kind of series; their paths."""
    facts = machine.facts
    written = [machine.out / "report.md"]
    out = [f"# Scaling on {facts['device']}", "",
           f"{facts['host']}, {facts['cores']} cores, program {facts['program']}, commit "
           f"{facts['commit'] or 'unknown'}. Medians over repetitions, each the median of a run's steps; efficiency is "
           "tokens/s over the sum of those that the same GPUs have by themselves, at the same time (over one rank's "
           "times the ranks, on CPUs). Predictions are `qat_dist plan`'s, from the measured step of one rank, on the "
           "slowest of these GPUs, and the links that `qat_dist doctor` measured (for ranks that the machine lacks, those that "
           "plan knows of the GPU).", ""]
    for figure, title in TITLES.items():
        series = {}
        for point in chosen:
            if point.figure == figure:
                series.setdefault(point.series, []).append(Point(machine, found, point))
        if not series:
            continue
        svg = machine.out / f"{figure}.svg"
        panels = [draw.Panel("tokens/s", _curves(series, lambda one, tokens: tokens), log_y=True),
                  draw.Panel("efficiency", _curves(series, lambda one, tokens: one.efficiency(tokens)))]
        svg.write_text(draw.to_svg(panels, counts, "GPUs" if machine.cuda else "CPU ranks"), encoding="utf-8")
        written.append(svg)
        out += [f"## {title}", "", f"![{title}]({svg.name}) Points: measured. Dashed: predicted.", ""]
        for name, one in series.items():
            out += [f"### {name}", "", *_table(one), ""]
    out += _bits(chosen, found, machine)
    written[0].write_text("\n".join(out), encoding="utf-8")
    return written
