#include "src/report/run_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace qat {
namespace {

using Points = std::vector<std::pair<double, double>>;
using Style = PlotSeries::Style;

constexpr int kFullHue = 275;  // 32 bits
constexpr int kBlue = 210;
constexpr double kBytesOfMiB = 1024.0 * 1024.0;
constexpr double kSmoothing = 0.9;      // of the mean that follows noisy values
constexpr std::size_t kFewPoints = 40;  // no line through so few
constexpr double kManyTimes = 8.0;      // the largest value is that many times the smallest: decades

Points each_step(const RunHistory& run, const std::function<double(const RecordedStep&)>& value) {
  Points points;
  points.reserve(run.steps.size());
  for (const RecordedStep& step : run.steps) points.emplace_back(static_cast<double>(step.step), value(step));
  return points;
}

// The running mean with weights that fall off; what is not finite is passed over.
Points smoothed(const Points& points) {
  Points means;
  means.reserve(points.size());
  double sum = 0.0, weight = 0.0;
  for (const auto& [x, y] : points) {
    if (!std::isfinite(y)) continue;
    sum = kSmoothing * sum + y, weight = kSmoothing * weight + 1.0;
    means.emplace_back(x, sum / weight);
  }
  return means;
}

bool spans_decades(const Plot& plot) {
  double low = INFINITY, high = 0.0;
  for (const PlotSeries& series : plot.series)
    for (const auto& [x, y] : series.points)
      if (std::isfinite(y) && y > 0.0) low = std::min(low, y), high = std::max(high, y);
  return high > kManyTimes * low;
}

std::string unit_of_loss(const RunHistory& run) {
  return run.final && !run.final->widths.empty() && run.final->widths.front().answers ? "loss (nats a window)"
                                                                                      : "loss (nats a token)";
}

Plot loss_by_precision(const RunHistory& run) {
  Plot plot{.title = "Training loss by precision", .y_label = unit_of_loss(run)};
  const std::vector<PrecisionName> all = run.precisions();
  std::map<PrecisionName, Points> points;
  for (const RecordedStep& step : run.steps)
    for (const auto& [at, loss] : step.losses) points[at].emplace_back(static_cast<double>(step.step), loss);
  bool lines = false;
  for (const PrecisionName& at : all)
    plot.series.push_back({.name = at.text(), .style = Style::kPoints, .hue = hue_of(at, all), .points = points[at]});
  for (const PrecisionName& at : all)
    if (points[at].size() > kFewPoints) {
      plot.series.push_back(
          {.name = "", .style = Style::kLine, .hue = hue_of(at, all), .points = smoothed(points[at])});
      lines = true;
    }
  if (lines) plot.note = "A dot is a step, a line the running mean of a precision's steps.";
  return plot;
}

Plot schedule(const RunHistory& run) {
  Plot plot{.title = "Schedule of widths", .y_label = "bits", .from_zero = true};
  // Maps and steps with several passes have no one width.
  Points weights, activations, gradients;
  bool other_activations = false;
  for (const RecordedStep& step : run.steps) {
    const auto x = static_cast<double>(step.step);
    if (step.losses.size() != 1 || !step.losses.front().first.map.empty()) continue;
    const int bits = step.losses.front().first.bits;
    weights.emplace_back(x, bits);
    activations.emplace_back(x, step.act_bits);
    gradients.emplace_back(x, step.grad_bits);
    other_activations = other_activations || step.act_bits != bits;
  }
  if (weights.empty()) return plot;
  plot.series.push_back({.name = "gradients", .style = Style::kSteps, .hue = 35, .points = std::move(gradients)});
  if (other_activations)
    plot.series.push_back(
        {.name = "activations", .style = Style::kSteps, .hue = 150, .points = std::move(activations)});
  plot.series.push_back({.name = "weights" + std::string(other_activations ? "" : " and activations"),
                         .style = Style::kSteps,
                         .hue = kBlue,
                         .points = std::move(weights)});
  return plot;
}

// Of the final table, or of the newest evaluation of each precision.
std::vector<std::pair<PrecisionName, double>> last_perplexities(const RunHistory& run) {
  std::map<PrecisionName, double> found;
  for (const RecordedEvaluation& one : run.evaluations)
    if (one.perplexity) found[one.at] = *one.perplexity;
  if (run.final) {
    found.clear();
    for (const WidthResult& width : run.final->widths)
      if (const auto perplexity = width.perplexity())
        found[{.bits = width.map ? 0 : width.weight_bits, .map = width.map ? width.map->name : ""}] = *perplexity;
  }
  return {found.begin(), found.end()};
}

// Precisions side by side, equally far apart.
Plot perplexity_by_bits(std::span<const RunHistory> runs) {
  Plot plot{.title = "Held-out perplexity by precision", .x_label = "bits of the weights", .y_label = "perplexity"};
  std::set<PrecisionName> all;
  for (const RunHistory& run : runs)
    for (const auto& [at, value] : last_perplexities(run)) all.insert(at);
  const auto place = [&](const PrecisionName& at) {
    return static_cast<double>(std::distance(all.begin(), all.find(at)));
  };
  for (const PrecisionName& at : all)
    plot.x_names.emplace_back(place(at), at.map.empty() ? std::to_string(at.bits) : at.map);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    PlotSeries series{.name = runs.size() > 1 ? runs[i].name : "",
                      .style = Style::kLinePoints,
                      .hue = runs.size() > 1 ? hue_of_run(i, runs.size()) : kBlue};
    for (const auto& [at, value] : last_perplexities(runs[i])) series.points.emplace_back(place(at), value);
    plot.series.push_back(std::move(series));
  }
  plot.log_y = spans_decades(plot);
  return plot;
}

Plot perplexity_over_steps(const RunHistory& run) {
  Plot plot{.title = "Held-out perplexity over the run", .y_label = "perplexity"};
  std::map<PrecisionName, Points> points;
  std::vector<PrecisionName> all;
  for (const RecordedEvaluation& one : run.evaluations)
    if (one.perplexity) points[one.at].emplace_back(static_cast<double>(one.step), *one.perplexity);
  std::size_t most = 0;
  for (const auto& [at, values] : points) all.push_back(at), most = std::max(most, values.size());
  if (most < 2) return plot;
  for (const auto& [at, values] : points)
    plot.series.push_back({.name = at.text(), .style = Style::kLinePoints, .hue = hue_of(at, all), .points = values});
  plot.log_y = spans_decades(plot);
  return plot;
}

Plot one_line(std::string title, std::string unit, Points points, int hue = kBlue) {
  return {.title = std::move(title),
          .y_label = std::move(unit),
          .series = {{.name = "", .style = Style::kLine, .hue = hue, .points = std::move(points)}}};
}

Plot speed(const RunHistory& run) {
  Plot plot =
      one_line("Speed", "tokens a second", each_step(run, [](const RecordedStep& s) { return s.tokens_per_s; }));
  plot.from_zero = true;
  return plot;
}

// Of the steps that say.
Plot memory(const RunHistory& run) {
  double most = 0.0;
  for (const RecordedStep& step : run.steps) most = std::max(most, step.memory_bytes);
  const bool large = most >= 1024.0 * kBytesOfMiB;
  const double unit = large ? 1024.0 * kBytesOfMiB : kBytesOfMiB;
  Plot plot = one_line("Memory of rank 0", large ? "GiB" : "MiB", each_step(run, [unit](const RecordedStep& s) {
                         return s.memory_bytes > 0.0 ? s.memory_bytes / unit : std::nan("");
                       }));
  plot.from_zero = true;
  return plot;
}

// What range_test.json says; what it does not say is left out.
Plot range_test(const Value& test) {
  const Value* form = test.is_object() ? test.find("form") : nullptr;
  const bool by_loss = form != nullptr && *form == Value("plateau");
  const char* gain = by_loss ? "loss_gain" : "gain";
  Plot plot{.title = "Precision range test",
            .x_label = "bits",
            .y_label = by_loss ? "gain: share of the loss" : "gain in accuracy"};
  const auto number = [](const Value& object, const char* key) {
    const Value* value = object.is_object() ? object.find(key) : nullptr;
    return value != nullptr && value->is_number() ? value->as_double() : std::nan("");
  };
  const Value* widths = test.is_object() ? test.find("widths") : nullptr;
  if (widths == nullptr || !widths->is_array()) return plot;
  PlotSeries gains{.name = "gain of a width", .style = Style::kLinePoints, .hue = kBlue};
  double low = 0.0, high = 0.0;
  for (const Value& width : widths->as_array()) {
    gains.points.emplace_back(number(width, "bits"), number(width, gain));
    if (std::isfinite(gains.points.back().second))
      low = std::min(low, gains.points.back().second), high = std::max(high, gains.points.back().second);
  }
  if (gains.points.empty()) return plot;
  std::sort(gains.points.begin(), gains.points.end());
  const auto bound = [&](const char* key, const char* name, int hue) {
    const double at = number(test, key);
    if (std::isfinite(at))
      plot.series.push_back({.name = fmt::format("{} {:g}", name, at),
                             .style = Style::kDashed,
                             .hue = hue,
                             .points = {{at, low}, {at, high}}});
  };
  bound("min_bits", "least bits", 15);
  bound("max_bits", "most bits", kFullHue);
  if (const double at = number(test, "threshold"); std::isfinite(at))
    plot.series.push_back({.name = "threshold",
                           .style = Style::kDashed,
                           .hue = PlotSeries::kNeutral,
                           .points = {{gains.points.front().first, at}, {gains.points.back().first, at}}});
  plot.series.push_back(std::move(gains));
  return plot;
}

// A layer's mean over the records of each precision, layer by layer.
Plot by_layer(const RunHistory& run, std::string title, std::string unit, double LayerFigures::*figure) {
  Plot plot{.title = std::move(title), .x_label = "linear layer, in order of use", .y_label = std::move(unit)};
  struct Mean {
    std::vector<double> sums, counts;
  };
  std::map<PrecisionName, Mean> means;
  for (const LayerRecord& record : run.layers) {
    const bool width =
        !record.precision.empty() && record.precision.find_first_not_of("0123456789") == std::string::npos;
    Mean& mean = means[width ? PrecisionName{.bits = std::stoi(record.precision), .map = ""}
                             : PrecisionName{.bits = 0, .map = record.precision}];
    mean.sums.resize(std::max(mean.sums.size(), record.layers.size()));
    mean.counts.resize(mean.sums.size());
    for (std::size_t i = 0; i < record.layers.size(); ++i)
      if (std::isfinite(record.layers[i].*figure)) mean.sums[i] += record.layers[i].*figure, ++mean.counts[i];
  }
  std::vector<PrecisionName> all;
  for (const auto& [at, mean] : means) all.push_back(at);
  for (const auto& [at, mean] : means) {
    PlotSeries series{.name = at.text(), .style = Style::kLinePoints, .hue = hue_of(at, all)};
    for (std::size_t i = 0; i < mean.sums.size(); ++i)
      series.points.emplace_back(static_cast<double>(i), mean.sums[i] / mean.counts[i]);
    plot.series.push_back(std::move(series));
  }
  plot.note = "Means over the recorded steps of each precision (layers.jsonl has the layers' names).";
  return plot;
}

std::vector<Plot> those_with_points(std::vector<Plot> plots) {
  std::erase_if(plots, [](const Plot& plot) { return !has_points(plot); });
  return plots;
}

}  // namespace

int hue_of(const PrecisionName& precision, std::span<const PrecisionName> all) {
  if (precision.map.empty()) {
    if (precision.bits >= 32) return kFullHue;
    // 2 to 8 bits, the usual ones, from red to blue; beyond that little is left to tell apart.
    static constexpr int kHues[] = {0, 0, 0, 24, 45, 80, 140, 178, 207};
    return precision.bits <= 8 ? kHues[std::max(precision.bits, 0)] : std::min(214 + 4 * (precision.bits - 9), 255);
  }
  const auto maps = std::count_if(all.begin(), all.end(), [](const PrecisionName& one) { return !one.map.empty(); });
  const auto before = std::count_if(all.begin(), all.end(),
                                    [&](const PrecisionName& one) { return !one.map.empty() && one < precision; });
  return static_cast<int>((10 + 300 * before / std::max<std::ptrdiff_t>(maps, 1)) % 360);
}

int hue_of_run(std::size_t i, std::size_t count) {
  return static_cast<int>((static_cast<std::size_t>(kBlue) + 330 * i / std::max<std::size_t>(count, 1)) % 360);
}

std::vector<Plot> plots_of(const RunHistory& run) {
  std::vector<Plot> plots;
  plots.push_back(loss_by_precision(run));
  plots.push_back(perplexity_by_bits(std::span(&run, 1)));
  plots.push_back(perplexity_over_steps(run));
  plots.push_back(schedule(run));
  plots.push_back(
      one_line("Learning rate", "learning rate", each_step(run, [](const RecordedStep& s) { return s.lr; })));
  plots.push_back(one_line("Gradient norm", "norm, before clipping",
                           each_step(run, [](const RecordedStep& s) { return s.grad_norm; })));
  plots.back().log_y = spans_decades(plots.back());
  plots.push_back(speed(run));
  plots.push_back(memory(run));
  plots.push_back(by_layer(run, "Gradient norm by layer", "norm, before clipping", &LayerFigures::grad_norm));
  plots.back().log_y = spans_decades(plots.back());
  plots.push_back(by_layer(run, "Weights quantized to zero, by layer", "share", &LayerFigures::zero_codes));
  plots.push_back(by_layer(run, "Weights beyond the codes, by layer", "share", &LayerFigures::clipped));
  const bool none_beyond =
      std::all_of(plots.back().series.begin(), plots.back().series.end(), [](const PlotSeries& one) {
        return std::none_of(one.points.begin(), one.points.end(), [](const auto& point) { return point.second > 0.0; });
      });
  if (none_beyond) plots.pop_back();
  plots.push_back(range_test(run.range_test));
  return those_with_points(std::move(plots));
}

std::vector<Plot> plots_of(std::span<const RunHistory> runs) {
  std::vector<Plot> plots;
  const auto overlay = [&](const char* title, const char* unit,
                           const std::function<Points(const RunHistory&)>& points) {
    Plot& plot = plots.emplace_back(Plot{.title = title, .y_label = unit});
    for (std::size_t i = 0; i < runs.size(); ++i)
      plot.series.push_back(
          {.name = runs[i].name, .style = Style::kLine, .hue = hue_of_run(i, runs.size()), .points = points(runs[i])});
  };
  overlay("Training loss", "loss (nats)",
          [](const RunHistory& run) { return smoothed(each_step(run, [](const RecordedStep& s) { return s.loss; })); });
  plots.back().note = "Running means over each run's steps, at whatever precision they were.";
  plots.push_back(perplexity_by_bits(runs));
  overlay("Schedule of widths", "bits of the weights", [](const RunHistory& run) {
    return each_step(run, [](const RecordedStep& s) {
      return s.losses.size() == 1 && s.losses[0].first.map.empty() ? s.losses[0].first.bits : std::nan("");
    });
  });
  for (PlotSeries& series : plots.back().series) series.style = Style::kSteps;
  plots.back().from_zero = true;
  overlay("Learning rate", "learning rate",
          [](const RunHistory& run) { return each_step(run, [](const RecordedStep& s) { return s.lr; }); });
  overlay("Speed", "tokens a second",
          [](const RunHistory& run) { return each_step(run, [](const RecordedStep& s) { return s.tokens_per_s; }); });
  plots.back().from_zero = true;
  overlay("Training BitOps so far, relative to 32 bits", "ratio",
          [](const RunHistory& run) { return each_step(run, [](const RecordedStep& s) { return s.bitops_ratio; }); });
  return those_with_points(std::move(plots));
}

}  // namespace qat
