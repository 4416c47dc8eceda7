#include "src/report/evaluation_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "src/report/baseline_table.h"
#include "src/report/html_page.h"
#include "src/report/robustness_table.h"
#include "src/report/run_plots.h"
#include "src/report/speed_table.h"
#include "src/report/task_tables.h"
#include "src/report/text_tables.h"

namespace qat {
namespace {

using Of = std::function<std::optional<double>(const WidthResult&)>;

constexpr double kManyTimes = 8.0;  // the largest value is that many times the smallest: decades

std::string row_of(const WidthResult& width) { return bits_cells(width)[0].text; }

// The rows from few bits a weight to many, side by side.
class Rows {
 public:
  explicit Rows(const std::vector<WidthResult>& widths) {
    for (const WidthResult& width : widths) rows_.push_back(&width);
    std::stable_sort(rows_.begin(), rows_.end(), [](const WidthResult* a, const WidthResult* b) {
      return a->size.effective_bits < b->size.effective_bits;
    });
  }

  Plot plot(const std::string& title, const std::string& unit) const {
    Plot plot{.title = title, .x_label = "precision", .y_label = unit};
    for (std::size_t i = 0; i < rows_.size(); ++i) plot.x_names.emplace_back(static_cast<double>(i), row_of(*rows_[i]));
    return plot;
  }
  // A series of what there is.
  void add(Plot& plot, const std::string& name, const Of& of) const {
    PlotSeries series{.name = name, .style = PlotSeries::Style::kLinePoints};
    for (std::size_t i = 0; i < rows_.size(); ++i)
      if (const auto value = of(*rows_[i]); value && std::isfinite(*value))
        series.points.emplace_back(static_cast<double>(i), *value);
    if (!series.points.empty()) plot.series.push_back(std::move(series));
  }

 private:
  std::vector<const WidthResult*> rows_;
};

std::optional<double> if_positive(double value) { return value > 0.0 ? std::optional(value) : std::nullopt; }

// Names in order of first appearance.
template <typename Member, typename Name>
std::vector<std::string> names_of(const std::vector<WidthResult>& widths, Member member, Name name) {
  std::vector<std::string> names;
  for (const WidthResult& width : widths)
    for (const auto& one : width.*member)
      if (std::find(names.begin(), names.end(), one.*name) == names.end()) names.push_back(one.*name);
  return names;
}

Plot perplexities(const Rows& rows, const std::vector<WidthResult>& widths) {
  Plot plot = rows.plot("Perplexity by precision", "perplexity");
  rows.add(plot, "held out", [](const WidthResult& width) { return width.perplexity(); });
  for (const std::string& name : names_of(widths, &WidthResult::texts, &TextFigures::text))
    rows.add(plot, name, [&](const WidthResult& width) -> std::optional<double> {
      for (const TextFigures& text : width.texts)
        if (text.text == name) return text.perplexity();
      return std::nullopt;
    });
  return plot;
}

Plot accuracies(const Rows& rows, const std::vector<WidthResult>& widths) {
  Plot plot = rows.plot("Accuracy of tasks by precision", "% right");
  plot.note = "By the log-likelihood of the whole answer.";
  for (const std::string& name : names_of(widths, &WidthResult::tasks, &TaskFigures::task))
    rows.add(plot, name, [&](const WidthResult& width) -> std::optional<double> {
      for (const TaskFigures& task : width.tasks)
        if (task.task == name && task.error.empty()) return 100.0 * task.by(ChoiceRule::kSum).value();
      return std::nullopt;
    });
  if (plot.series.size() > 1) {
    rows.add(plot, "mean",
             [](const WidthResult& width) { return 100.0 * mean_accuracy(width.tasks, ChoiceRule::kSum); });
    plot.series.back().style = PlotSeries::Style::kDashed;
  }
  return plot;
}

// Of models that point at answers, and of those that write them.
Plot answers(const Rows& rows, const Value& details) {
  Plot plot = rows.plot("Questions answered by precision", "%");
  rows.add(plot, "exact match", [](const WidthResult& width) {
    return width.answers ? std::optional(width.answers->exact_match) : std::nullopt;
  });
  rows.add(plot, "F1",
           [](const WidthResult& width) { return width.answers ? std::optional(width.answers->f1) : std::nullopt; });
  const Value* generated = details.find("generated_answers");
  if (generated == nullptr) return plot;
  struct Figure {
    const char *task, *key, *name;
  };
  for (const Figure& figure : {Figure{"squad", "exact_match", "SQuAD, exact match"}, Figure{"squad", "f1", "SQuAD, F1"},
                               Figure{"trivia", "contains_answer", "TriviaQA, contains an answer"}})
    rows.add(plot, figure.name, [&](const WidthResult& width) -> std::optional<double> {
      for (const Value& one : generated->as_array())
        if (const Value* bits = one.find("bits");
            bits != nullptr && one.at("task").as_string() == figure.task && bits->as_string() == row_of(width))
          return one.at(figure.key).as_double();
      return std::nullopt;
    });
  return plot;
}

Plot disturbed(const Rows& rows) {
  Plot plot = rows.plot("Next tokens right, with inputs disturbed", "% right");
  const auto share = [&](const char* name, double (*of)(const RobustnessFigures&)) {
    rows.add(plot, name, [of](const WidthResult& width) {
      return width.robustness ? std::optional(100.0 * of(*width.robustness)) : std::nullopt;
    });
  };
  share("clean", [](const RobustnessFigures& one) { return one.clean_accuracy(); });
  share("noise", [](const RobustnessFigures& one) { return one.accuracy(Disturbance::kNoise); });
  share("worst", [](const RobustnessFigures& one) { return one.worst_accuracy(); });
  return plot;
}

Plot speed(const Rows& rows) {
  Plot plot = rows.plot("Speed by precision", "tokens a second");
  plot.from_zero = true;
  rows.add(plot, "", [](const WidthResult& width) {
    return width.speed ? if_positive(width.speed->tokens_per_second()) : std::nullopt;
  });
  return plot;
}

bool spans_decades(const Plot& plot) {
  double low = INFINITY, high = 0.0;
  for (const PlotSeries& series : plot.series)
    for (const auto& point : series.points) low = std::min(low, point.second), high = std::max(high, point.second);
  return low > 0.0 && high > kManyTimes * low;
}

struct Section {
  std::string heading;
  Table table;
  std::string note;
};

std::vector<Section> sections_of(const FinalReport& report) {
  const std::vector<WidthResult>& widths = report.widths;
  std::vector<Section> all;
  if (std::any_of(widths.begin(), widths.end(), [](const WidthResult& one) { return one.wants_held_out; }))
    all.push_back({final_heading(report), width_table(widths), final_notes(report)});
  for (const auto& [rule, by] : {std::pair{ChoiceRule::kSum, "log-likelihood"},
                                 {ChoiceRule::kToken, "log-likelihood per token"},
                                 {ChoiceRule::kByte, "log-likelihood per byte of the answer"}})
    all.push_back({fmt::format("Accuracy (%) by the {}", by), task_table(widths, rule)});
  all.push_back({"Few-shot accuracy (%) by category", category_table(widths)});
  if (has_texts(widths)) all.push_back({"Perplexity of texts", perplexity_table(widths)});
  all.push_back({"Tokens (%) that were the likeliest, and among the five likeliest", token_accuracy_table(widths)});
  if (const auto baseline = baseline_of(widths, report.baseline); baseline && (has_tasks(widths) || has_texts(widths)))
    all.push_back({fmt::format("Change from {}", row_of(widths[*baseline])), change_table(widths, *baseline)});
  all.push_back({"Next tokens (%) that were the likeliest, with inputs disturbed", robustness_table(widths)});
  all.push_back({"Speed", speed_table(widths)});
  all.push_back({"Time of the layers", layer_time_table(widths)});
  std::erase_if(all, [](const Section& section) { return section.table.rows() == 0; });
  return all;
}

}  // namespace

std::vector<Plot> evaluation_plots(const FinalReport& report) {
  const Rows rows(report.widths);
  std::vector<Plot> plots = {perplexities(rows, report.widths), accuracies(rows, report.widths),
                             answers(rows, report.details), disturbed(rows), speed(rows)};
  plots.front().log_y = spans_decades(plots.front());
  std::erase_if(plots, [](const Plot& plot) { return !has_points(plot); });
  for (Plot& plot : plots)
    for (std::size_t i = 0; i < plot.series.size(); ++i)
      plot.series[i].hue =
          plot.series[i].style == PlotSeries::Style::kDashed ? PlotSeries::kNeutral : hue_of_run(i, plot.series.size());
  return plots;
}

std::string evaluation_page(const FinalReport& report) {
  std::string body = fmt::format("<h1>{}</h1>\n", html_text(report.title));
  Table facts({"", "Value"});
  for (const auto& [name, value] : report.summary) facts.add_row({{"", name}, {"Value", value}});
  if (facts.rows() > 0) body += fmt::format("<div class=\"wide\">\n{}</div>\n", facts.html());
  body += "<h2>Plots</h2>\n<div class=\"plots\">\n";
  for (const Plot& plot : evaluation_plots(report)) body += to_figure(plot);
  body += "</div>\n";
  for (const Section& section : sections_of(report)) {
    body +=
        fmt::format("<h2>{}</h2>\n<div class=\"wide\">\n{}</div>\n", html_text(section.heading), section.table.html());
    if (!section.note.empty()) body += fmt::format("<p>{}</p>\n", html_text(section.note));
  }
  if (report.insights) {
    body += "<h2>What stands out</h2>\n<ul>\n";
    for (const std::string& line : insights(report.widths)) body += fmt::format("<li>{}</li>\n", html_text(line));
    body += "</ul>\n";
  }
  return html_page(report.title, body);
}

}  // namespace qat
