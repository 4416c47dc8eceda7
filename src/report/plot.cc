#include "src/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include "src/report/html_page.h"

namespace qat {
namespace {

// Of the drawing, in its own units; the page scales it.
constexpr double kWidth = 640, kHeight = 300, kLeft = 78, kRight = 24, kTop = 10, kBottom = 44;
constexpr std::size_t kBuckets = 300;
constexpr std::size_t kFewDots = 100;  // larger ones
constexpr int kMostXTicks = 8, kMostYTicks = 7;

struct Extent {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();

  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
  bool any() const { return low <= high; }
};

class Axes {
 public:
  explicit Axes(const Plot& plot) : plot_(plot) {
    for (const PlotSeries& series : plot.series)
      for (const auto& [px, py] : series.points)
        if (usable(px, py)) x_.add(px), y_.add(py);
    for (const auto& [at, name] : plot.x_names) x_.add(at - 0.4), x_.add(at + 0.4);
    if (plot.from_zero && !plot.log_y) y_.add(0.0);
    widen(x_, plot.x_names.empty() ? 0.0 : 0.02, /*log=*/false);
    widen(y_, 0.05, plot.log_y);
    if (plot.from_zero && !plot.log_y) y_.low = 0.0;
  }

  bool usable(double px, double py) const { return std::isfinite(px) && std::isfinite(py) && (!plot_.log_y || py > 0); }
  double x(double value) const { return kLeft + (value - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double y(double value) const {
    const auto scale = [&](double v) { return plot_.log_y ? std::log10(v) : v; };
    const double share = (scale(value) - scale(y_.low)) / (scale(y_.high) - scale(y_.low));
    return kHeight - kBottom - share * (kHeight - kTop - kBottom);
  }

  std::string grid() const {
    std::string out;
    const auto ticks =
        plot_.log_y ? log_ticks(y_.low, y_.high, kMostYTicks) : round_ticks(y_.low, y_.high, kMostYTicks);
    for (const double tick : ticks) {
      out += fmt::format(R"(<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>)", kLeft, kWidth - kRight,
                         y(tick));
      out += fmt::format(R"(<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 6, y(tick) + 4,
                         tick_text(tick));
    }
    for (const auto& [at, name] : x_ticks()) {
      out += fmt::format(R"(<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>)", x(at),
                         kHeight - kBottom, kHeight - kBottom + 4);
      out += fmt::format(R"(<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", x(at),
                         kHeight - kBottom + 17, html_text(name));
    }
    out += fmt::format(R"(<path class="axis" d="M{0} {1}V{2}H{3}"/>)", kLeft, kTop, kHeight - kBottom, kWidth - kRight);
    out += fmt::format(R"(<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>)",
                       (kLeft + kWidth - kRight) / 2, kHeight - 8, html_text(plot_.x_label));
    const double middle = (kTop + kHeight - kBottom) / 2;
    out += fmt::format(
        R"_(<text class="label" x="14" y="{0}" text-anchor="middle" transform="rotate(-90 14 {0})">{1}</text>)_",
        middle, html_text(plot_.y_label));
    return out;
  }

 private:
  std::vector<std::pair<double, std::string>> x_ticks() const {
    if (!plot_.x_names.empty()) return plot_.x_names;
    std::vector<std::pair<double, std::string>> ticks;
    for (const double tick : round_ticks(x_.low, x_.high, kMostXTicks))
      if (tick == std::floor(tick)) ticks.emplace_back(tick, tick_text(tick));
    return ticks;
  }

  // Room around what is drawn; a single value gets room of its own size.
  static void widen(Extent& extent, double share, bool log) {
    if (!extent.any()) extent = {1.0, 2.0};
    if (log) {
      const double factor = std::max(std::pow(extent.high / extent.low, share), extent.low == extent.high ? 2.0 : 1.05);
      extent.low /= factor, extent.high *= factor;
      return;
    }
    double room = (extent.high - extent.low) * share;
    if (extent.low == extent.high) room = extent.low == 0.0 ? 1.0 : std::abs(extent.low) * 0.5;
    extent.low -= room, extent.high += room;
  }

  const Plot& plot_;
  Extent x_, y_;
};

std::string colour(int hue) {
  return hue == PlotSeries::kNeutral ? "currentColor" : fmt::format("hsl({} var(--s) var(--l))", hue);
}

std::string path_of(const PlotSeries& series, const Axes& axes) {
  std::string path;
  bool pen_down = false;
  std::optional<double> last_y;
  for (const auto& [px, py] : thinned(series.points, kBuckets)) {
    if (!axes.usable(px, py)) {
      pen_down = false;
      continue;
    }
    const double x = axes.x(px), y = axes.y(py);
    if (pen_down && series.style == PlotSeries::Style::kSteps && last_y && *last_y != y)
      path += fmt::format("H{:.1f}", x);
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x, y);
    pen_down = true;
    last_y = y;
  }
  return path;
}

// One path for all of them: a round cap on a line of no length is a dot.
std::string dots_of(const PlotSeries& series, const Axes& axes) {
  std::string path;
  for (const auto& [px, py] : thinned(series.points, kBuckets))
    if (axes.usable(px, py)) path += fmt::format("M{:.1f} {:.1f}h0", axes.x(px), axes.y(py));
  return path;
}

std::string draw(const PlotSeries& series, const Axes& axes) {
  using Style = PlotSeries::Style;
  std::string out;
  const std::string stroke = colour(series.hue);
  const auto add = [&](const char* kind, const std::string& path) {
    if (!path.empty()) out += fmt::format(R"(<path class="{}" style="stroke:{}" d="{}"/>)", kind, stroke, path);
  };
  if (series.style != Style::kPoints) add(series.style == Style::kDashed ? "dashed" : "line", path_of(series, axes));
  if (series.style == Style::kPoints) add(series.points.size() > kFewDots ? "dots" : "marks", dots_of(series, axes));
  if (series.style == Style::kLinePoints) add("marks", dots_of(series, axes));
  return out;
}

}  // namespace

bool has_points(const Plot& plot) {
  const Axes axes(plot);
  for (const PlotSeries& series : plot.series)
    for (const auto& [x, y] : series.points)
      if (series.style != PlotSeries::Style::kDashed && axes.usable(x, y)) return true;
  return false;
}

std::string to_figure(const Plot& plot) {
  const Axes axes(plot);
  std::string out = fmt::format("<figure>\n<h3>{}</h3>\n", html_text(plot.title));
  std::string legend;
  for (const PlotSeries& series : plot.series)
    if (!series.name.empty())
      legend +=
          fmt::format("<span><i style=\"background:{}\"></i>{}</span>\n", colour(series.hue), html_text(series.name));
  if (!legend.empty()) out += "<div class=\"legend\">\n" + legend + "</div>\n";
  out += fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                     html_text(plot.title));
  out += axes.grid() + "\n";
  for (const PlotSeries& series : plot.series)
    if (const std::string drawn = draw(series, axes); !drawn.empty()) out += drawn + "\n";
  out += "</svg>\n";
  if (!plot.note.empty()) out += fmt::format("<figcaption>{}</figcaption>\n", html_text(plot.note));
  return out + "</figure>\n";
}

}  // namespace qat
