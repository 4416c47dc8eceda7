#include "src/report/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace qat {
namespace {

// The checks in order, each with the thresholds that it names.
class Checker {
 public:
  explicit Checker(std::vector<HealthFinding>& out) : out_(out) {}

  void add(HealthLevel severity, const char* check, std::string text) {
    out_.push_back({severity, check, std::move(text)});
  }

  // Critical above the first limit, a warning above the second.
  void at_most(const char* check, double value, double critical, double warning) {
    if (!(value <= critical))
      add(HealthLevel::kCritical, check, fmt::format("{:.4g}: above {:g}", value, critical));
    else if (value > warning)
      add(HealthLevel::kWarning, check, fmt::format("{:.4g}: above {:g}", value, warning));
    else
      add(HealthLevel::kGood, check,
          fmt::format("{:.4g} (warning above {:g}, critical above {:g})", value, warning, critical));
  }

 private:
  std::vector<HealthFinding>& out_;
};

void check_logits(const LogitFigures& logits, Checker& check) {
  const std::int64_t broken = logits.not_a_number + logits.infinite;
  if (broken > 0)
    check.add(HealthLevel::kCritical, "finite logits",
              fmt::format("{} of {} are not a number, {} infinite: none may be", logits.not_a_number, logits.logits,
                          logits.infinite));
  else
    check.add(HealthLevel::kGood, "finite logits", fmt::format("all {}", logits.logits));
  if (logits.mean < -50.0)
    check.add(HealthLevel::kCritical, "logit mean", fmt::format("{:.4g}: below -50", logits.mean));
  else if (logits.mean < -30.0)
    check.add(HealthLevel::kWarning, "logit mean", fmt::format("{:.4g}: below -30", logits.mean));
  else
    check.add(HealthLevel::kGood, "logit mean",
              fmt::format("{:.4g} (warning below -30, critical below -50)", logits.mean));
  if (logits.deviation < 1.0)
    check.add(HealthLevel::kWarning, "logit deviation", fmt::format("{:.4g}: below 1", logits.deviation));
  else
    check.add(HealthLevel::kGood, "logit deviation", fmt::format("{:.4g} (warning below 1)", logits.deviation));
}

void check_repetition(const Diagnosis& one, Checker& check) {
  constexpr double kDeterministic = 1e-6, kMinor = 0.01;
  const char* name = "variance of equal passes";
  const std::string value = fmt::format("{:.3g} over {} passes", one.run_variance, kDiagnosisRuns);
  if (one.run_variance < kDeterministic)
    check.add(HealthLevel::kGood, name, value + ": deterministic (below 1e-6)");
  else if (one.run_variance < kMinor)
    check.add(HealthLevel::kNote, name, value + ": minor (below 0.01)");
  else
    check.add(HealthLevel::kWarning, name, value + ": 0.01 or more");
  const std::string passes =
      fmt::format("largest difference {:.3g} over {} passes", one.pass_difference, kConsistencyPasses);
  if (one.pass_difference == 0.0)
    check.add(HealthLevel::kGood, "consistency", passes + ": none");
  else
    check.add(one.pass_difference < kMinor ? HealthLevel::kNote : HealthLevel::kWarning, "consistency",
              passes + (one.pass_difference < kMinor ? ": below 0.01" : ": 0.01 or more"));
}

void check_adapters(const Diagnosis& one, Checker& check) {
  if (one.adapters == 0) {
    check.add(HealthLevel::kNote, "adapters", "none at this width");
    return;
  }
  check.add(one.zero_adapters == 0 ? HealthLevel::kGood : HealthLevel::kWarning, "adapters",
            fmt::format("{} at this width, {} parameters of {}; {} with a B of zeros, which adds nothing", one.adapters,
                        one.adapter_parameters, one.parameters, one.zero_adapters));
  if (!one.adapter_effect) return;
  const bool enough = *one.adapter_effect > 0.01;
  check.add(enough ? HealthLevel::kGood : HealthLevel::kWarning, "adapters' effect",
            fmt::format("mean change of a logit {:.3g}: {} 0.01", *one.adapter_effect, enough ? "above" : "at most"));
}

// Nothing if it is no number.
Value number(double value) { return std::isfinite(value) ? Value(value) : Value(); }

}  // namespace

std::vector<HealthFinding> health_findings(const Diagnosis& one, const Diagnosis* baseline) {
  std::vector<HealthFinding> found;
  Checker check(found);
  check_logits(one.logits, check);
  if (baseline != nullptr)
    check.at_most("logit mean beside the baseline's", std::abs(one.logits.mean - baseline->logits.mean), 50.0, 20.0);
  check_repetition(one, check);
  if (one.perplexity) check.at_most("perplexity of the sample", *one.perplexity, 100.0, 50.0);
  check.at_most("shift of the logit mean along the text", std::abs(one.drift), 20.0, 10.0);
  check_adapters(one, check);
  return found;
}

std::string diagnosis_text(const std::vector<Diagnosis>& all, std::optional<std::size_t> baseline) {
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Diagnosis& one = all[i];
    text += fmt::format("Diagnosis at {}{}\n", one.bits, baseline == i ? ", the baseline" : "");
    for (const HealthFinding& finding : health_findings(one, baseline && *baseline != i ? &all[*baseline] : nullptr))
      text += fmt::format("  {:8} {}: {}\n", enum_name(finding.severity), finding.check, finding.text);
    const LogitFigures& logits = one.logits;
    text += fmt::format(
        "  logits {:.4g} to {:.4g}, median {:.4g}, {:.3g} % below 1e-6 in magnitude; entropy {:.4g} nats; "
        "likeliest ids after the sample",
        logits.least, logits.most, logits.median, 100.0 * logits.near_zero, logits.entropy);
    for (const auto& [id, logit] : logits.top_5) text += fmt::format(" {} ({:.3g})", id, logit);
    text += "\n";
  }
  return text;
}

Value diagnosis_value(const std::vector<Diagnosis>& all, std::optional<std::size_t> baseline) {
  Value::Array values;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Diagnosis& one = all[i];
    const LogitFigures& logits = one.logits;
    Value::Array found, top;
    for (const HealthFinding& finding : health_findings(one, baseline && *baseline != i ? &all[*baseline] : nullptr))
      found.push_back(Value::object(
          {{"severity", enum_name(finding.severity)}, {"check", finding.check}, {"finding", finding.text}}));
    for (const auto& [id, logit] : logits.top_5) top.push_back(Value::object({{"id", id}, {"logit", number(logit)}}));
    values.push_back(Value::object({{"bits", one.bits},
                                    {"baseline", baseline == i},
                                    {"findings", Value::array(std::move(found))},
                                    {"logits", logits.logits},
                                    {"not_a_number", logits.not_a_number},
                                    {"infinite", logits.infinite},
                                    {"mean", number(logits.mean)},
                                    {"deviation", number(logits.deviation)},
                                    {"least", number(logits.least)},
                                    {"most", number(logits.most)},
                                    {"median", number(logits.median)},
                                    {"near_zero", number(logits.near_zero)},
                                    {"entropy", number(logits.entropy)},
                                    {"top_5", Value::array(std::move(top))},
                                    {"run_variance", number(one.run_variance)},
                                    {"pass_difference", number(one.pass_difference)},
                                    {"drift", number(one.drift)},
                                    {"perplexity", one.perplexity ? number(*one.perplexity) : Value()},
                                    {"adapters", one.adapters},
                                    {"zero_adapters", one.zero_adapters},
                                    {"adapter_parameters", one.adapter_parameters},
                                    {"parameters", one.parameters},
                                    {"adapter_effect", one.adapter_effect ? number(*one.adapter_effect) : Value()}}));
  }
  return Value::array(std::move(values));
}

}  // namespace qat
