#include "src/report/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "src/base/file.h"
#include "src/report/html_page.h"
#include "src/report/loss_figures.h"
#include "src/report/numbers.h"
#include "src/report/run_plots.h"
#include "src/report/table.h"

namespace qat {
namespace {

using Facts = std::vector<std::pair<std::string, std::string>>;

// A report's parts, whatever it is written as.
struct Section {
  std::string heading;  // empty: under the title
  Table table;
  std::string text;          // below the table
  bool below_plots = false;  // of the page
};

struct Document {
  std::string title;
  std::vector<Section> sections;
};

// What a run at its end says of itself goes over what its records say.
Facts facts_of(const RunHistory& run) {
  Facts facts = run_facts(run);
  if (!run.final) return facts;
  for (const auto& fact : run.final->summary) {
    if (fact.first == "steps" || fact.first == "tokens trained on" || fact.first == "checkpoint")
      continue;  // said already
    const auto same =
        std::find_if(facts.begin(), facts.end(), [&](const auto& one) { return one.first == fact.first; });
    same == facts.end() ? facts.push_back(fact) : void(same->second = fact.second);
  }
  return facts;
}

struct LossSpan {
  std::int64_t steps = 0;
  double first = 0.0, last = 0.0, least = 0.0;
};

// Of the finite losses; first and last are means of up to ten.
LossSpan loss_span(const RunHistory& run, const PrecisionName& at) {
  std::vector<double> values;
  for (const RecordedStep& step : run.steps)
    for (const auto& [precision, loss] : step.losses)
      if (precision == at && std::isfinite(loss)) values.push_back(loss);
  LossSpan span{.steps = static_cast<std::int64_t>(values.size())};
  if (values.empty()) return span;
  const std::size_t few = std::min<std::size_t>(10, (values.size() + 3) / 4);
  for (std::size_t i = 0; i < few; ++i) {
    span.first += values[i] / static_cast<double>(few);
    span.last += values[values.size() - 1 - i] / static_cast<double>(few);
  }
  span.least = *std::min_element(values.begin(), values.end());
  return span;
}

Section losses_section(const RunHistory& run) {
  Section section{.heading = "Training loss by precision",
                  .table = Table({"Precision", "Steps", "At first", "At last", "Least"}),
                  .text = "Nats; at first and at last: means of up to ten steps at that precision."};
  for (const PrecisionName& at : run.precisions()) {
    const LossSpan span = loss_span(run, at);
    const auto number = [&](double value) { return span.steps > 0 ? fixed(value, 4) : ""; };
    section.table.add_row({{"Precision", at.text()},
                           {"Steps", std::to_string(span.steps)},
                           {"At first", number(span.first)},
                           {"At last", number(span.last)},
                           {"Least", number(span.least)}});
  }
  return section;
}

// How the loss goes on from cycle to cycle of the precision schedule; no rows without cycles.
Section cycles_section(const RunHistory& run) {
  constexpr std::size_t kMostRows = 64;
  std::map<std::int64_t, std::vector<double>> losses;
  for (const RecordedStep& step : run.steps)
    if (step.cycle >= 0 && std::isfinite(step.loss)) losses[step.cycle].push_back(step.loss);
  Section section{.heading = "Cycles of the precision",
                  .table = Table({"Cycle", "Steps", "Mean loss", "Deviation", "Least"})};
  std::vector<double> means, deviations;
  const auto best = std::min_element(
      losses.begin(), losses.end(), [](const auto& a, const auto& b) { return mean_of(a.second) < mean_of(b.second); });
  for (const auto& [cycle, of_cycle] : losses) {
    means.push_back(mean_of(of_cycle)), deviations.push_back(deviation_of(of_cycle));
    const std::size_t left = losses.size() - means.size();
    if (left >= kMostRows) continue;
    section.table.add_row({{"Cycle", std::to_string(cycle + 1)},
                           {"Steps", std::to_string(of_cycle.size())},
                           {"Mean loss", fixed(means.back(), 4)},
                           {"Deviation", fixed(deviations.back(), 4)},
                           {"Least", fixed(*std::min_element(of_cycle.begin(), of_cycle.end()), 4)}});
  }
  if (losses.empty()) return section;
  section.text = fmt::format(
      "{}By a line fitted to all {}, the mean loss changes by {} nats a cycle and its deviation within a cycle by {}; "
      "the lowest mean is that of cycle {}.",
      losses.size() > kMostRows ? fmt::format("The last {} cycles. ", kMostRows) : "", losses.size(),
      fixed(fitted_slope(means), 4), fixed(fitted_slope(deviations), 4), best->first + 1);
  return section;
}

// The newest evaluation of each precision.
Section evaluations_section(const RunHistory& run) {
  std::map<PrecisionName, const RecordedEvaluation*> newest;
  for (const RecordedEvaluation& one : run.evaluations) newest[one.at] = &one;
  Section section{.heading = "Held out, during the run", .table = Table({"Precision", "After step"})};
  for (const auto& [at, one] : newest) {
    std::vector<Table::Cell> row = {{"Precision", at.text()}, {"After step", std::to_string(one->step)}};
    if (one->exact_match) {
      row.push_back({"Exact match", fixed(*one->exact_match, 2)});
      row.push_back({"F1", fixed(one->f1.value_or(std::nan("")), 2)});
    } else {
      row.push_back({"Perplexity", one->perplexity ? fixed(*one->perplexity, 3) : ""});
    }
    row.push_back({"Loss", std::isfinite(one->loss) ? fixed(one->loss, 4) : ""});
    section.table.add_row(row);
  }
  return section;
}

// A row a width of range_test.json; what it does not say is "-".
Section range_test_section(const Value& test) {
  Section section{.heading = "Precision range test",
                  .table = Table({"Bits", "Accuracy", "Gained", "Loss", "Part of it lost"}),
                  .text = "Means over the first and the last steps of a trial at that width."};
  const Value* widths = test.is_object() ? test.find("widths") : nullptr;
  if (widths == nullptr || !widths->is_array()) return section;
  for (const Value& width : widths->as_array()) {
    if (!width.is_object()) continue;
    const auto number = [&](const char* key, int digits) {
      const Value* value = width.find(key);
      return value != nullptr && value->is_number() ? fixed(value->as_double(), digits) : "";
    };
    const auto change = [&](const char* from, const char* to) {
      const std::string first = number(from, 4), last = number(to, 4);
      return first.empty() || last.empty() ? "" : fmt::format("{} to {}", first, last);
    };
    section.table.add_row({{"Bits", number("bits", 0)},
                           {"Accuracy", change("accuracy_first", "accuracy_last")},
                           {"Gained", number("gain", 4)},
                           {"Loss", change("loss_first", "loss_last")},
                           {"Part of it lost", number("loss_gain", 4)}});
  }
  return section;
}

Document document_of(const RunHistory& run) {
  Document document{.title = run.final ? run.final->title : fmt::format("Run {}: {}", run.name, run.state)};
  Section facts{.heading = "", .table = Table({"", "Value"})};
  for (const auto& [name, value] : facts_of(run)) facts.table.add_row({{"", name}, {"Value", value}});
  document.sections.push_back(std::move(facts));
  if (run.final)
    document.sections.push_back({.heading = final_heading(*run.final),
                                 .table = width_table(run.final->widths),
                                 .text = final_notes(*run.final)});
  else if (!run.evaluations.empty())
    document.sections.push_back(evaluations_section(run));
  if (!run.steps.empty()) document.sections.push_back(losses_section(run));
  if (Section cycles = cycles_section(run); cycles.table.rows() > 1) document.sections.push_back(std::move(cycles));
  if (Section test = range_test_section(run.range_test); test.table.rows() > 0)
    document.sections.push_back(std::move(test));
  return document;
}

// Rows by name in the order in which they first come up; a column a run.
class SideBySide {
 public:
  explicit SideBySide(std::string first) : first_(std::move(first)) {}

  void add(const std::string& run, const std::string& row, const std::string& value) {
    const auto known = std::find(rows_.begin(), rows_.end(), row);
    if (known == rows_.end()) rows_.push_back(row);
    values_[{row, run}] = value;
  }
  bool empty() const { return rows_.empty(); }
  Table table(std::span<const RunHistory> runs) const {
    std::vector<std::string> columns = {first_};
    for (const RunHistory& run : runs) columns.push_back(run.name);
    Table table(columns);
    for (const std::string& row : rows_) {
      std::vector<Table::Cell> cells = {{first_, row}};
      for (const RunHistory& run : runs)
        if (const auto found = values_.find({row, run.name}); found != values_.end())
          cells.push_back({run.name, found->second});
      table.add_row(cells);
    }
    return table;
  }

 private:
  std::string first_;
  std::vector<std::string> rows_;
  std::map<std::pair<std::string, std::string>, std::string> values_;
};

void flatten(const Value& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (!value.is_object()) {
    out[path] = to_json(value);
    return;
  }
  for (const Value::Member& member : value.as_object())
    flatten(member.value, path.empty() ? member.key : path + "." + member.key, out);
}

// The keys that the runs do not have alike.
Section differing_keys(std::span<const RunHistory> runs) {
  std::vector<std::map<std::string, std::string>> keys(runs.size());
  std::set<std::string> all;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].config.is_object()) flatten(runs[i].config, "", keys[i]);
    for (const auto& [key, text] : keys[i]) all.insert(key);
  }
  SideBySide rows("Key");
  all.erase("run.dir");
  for (const std::string& key : all) {
    const auto text = [&](std::size_t i) { return keys[i].contains(key) ? keys[i].at(key) : ""; };
    bool alike = true;
    for (std::size_t i = 1; i < runs.size(); ++i) alike = alike && text(i) == text(0);
    for (std::size_t i = 0; !alike && i < runs.size(); ++i) rows.add(runs[i].name, key, text(i));
  }
  return {.heading = "What their configurations do not have alike", .table = rows.table(runs), .below_plots = true};
}

Document document_of(std::span<const RunHistory> runs) {
  Document document{.title = fmt::format("{} runs side by side", runs.size())};
  SideBySide facts(""), scores("Held out");
  std::map<PrecisionName, std::vector<std::string>> held_out;  // by run
  for (const RunHistory& run : runs) {
    facts.add(run.name, "folder", run.dir.string());
    for (const auto& [name, value] : facts_of(run)) facts.add(run.name, name, value);
    std::map<PrecisionName, std::string> newest;
    for (const RecordedEvaluation& one : run.evaluations)
      if (one.perplexity || one.exact_match)
        newest[one.at] = one.perplexity
                             ? fixed(*one.perplexity, 3)
                             : fmt::format("{:.2f} / {:.2f}", *one.exact_match, one.f1.value_or(std::nan("")));
    for (const auto& [at, text] : newest) {
      held_out[at].resize(runs.size());
      held_out[at][static_cast<std::size_t>(&run - runs.data())] = text;
    }
  }
  for (const auto& [at, texts] : held_out)
    for (std::size_t i = 0; i < runs.size(); ++i)
      if (!texts[i].empty()) scores.add(runs[i].name, at.text(), texts[i]);
  document.sections.push_back({.heading = "", .table = facts.table(runs)});
  if (!scores.empty())
    document.sections.push_back({.heading = "Held-out perplexity by precision",
                                 .table = scores.table(runs),
                                 .text = "Of each run's newest evaluation at that precision. Runs with other held-out "
                                         "text do not compare; of questions, exact match / F1."});
  if (Section keys = differing_keys(runs); keys.table.rows() > 0) document.sections.push_back(std::move(keys));
  return document;
}

std::string markdown_of(const Document& document) {
  std::string text = fmt::format("# {}\n", document.title);
  for (const Section& section : document.sections) {
    text += section.heading.empty() ? "\n" : fmt::format("\n## {}\n\n", section.heading);
    text += section.table.markdown();
    if (!section.text.empty()) text += "\n" + section.text + (section.text.ends_with('\n') ? "" : "\n");
  }
  return text;
}

std::string html_of(const Section& section) {
  std::string text = section.heading.empty() ? "" : fmt::format("<h2>{}</h2>\n", html_text(section.heading));
  text += "<div class=\"wide\">\n" + section.table.html() + "</div>\n";
  if (!section.text.empty()) text += fmt::format("<p>{}</p>\n", html_text(section.text));
  return text;
}

std::string html_of(const Document& document, const std::vector<Plot>& plots, const std::string& rest) {
  std::string above, below;
  for (const Section& section : document.sections) (section.below_plots ? below : above) += html_of(section);
  std::string drawn = "<h2>Plots</h2>\n<div class=\"plots\">\n";
  for (const Plot& plot : plots) drawn += to_figure(plot);
  drawn += "</div>\n";
  return html_page(document.title,
                   fmt::format("<h1>{}</h1>\n", html_text(document.title)) + above + drawn + below + rest);
}

}  // namespace

std::string to_markdown(const RunHistory& run) { return markdown_of(document_of(run)); }

std::string to_html(const RunHistory& run) {
  std::string config;
  if (run.config.is_object())
    config = fmt::format("<details>\n<summary>Configuration in force</summary>\n<pre>{}</pre>\n</details>\n",
                         html_text(to_json(run.config, 2)));
  return html_of(document_of(run), plots_of(run), config);
}

std::string to_markdown(std::span<const RunHistory> runs) { return markdown_of(document_of(runs)); }

std::string to_html(std::span<const RunHistory> runs) { return html_of(document_of(runs), plots_of(runs), ""); }

void write_run_report(std::span<const RunHistory> runs, const std::filesystem::path& file) {
  std::filesystem::path text = file;
  text.replace_extension(".md");
  if (text == file)
    throw Error(ErrorKind::kConfig, fmt::format("--out is \"{}\": expected the name of an HTML file, such as "
                                                "report.html; the Markdown goes beside it",
                                                file.string()));
  const bool one = runs.size() == 1;
  write_file_atomic(text, one ? to_markdown(runs.front()) : to_markdown(runs));
  write_file_atomic(file, one ? to_html(runs.front()) : to_html(runs));
}

}  // namespace qat
