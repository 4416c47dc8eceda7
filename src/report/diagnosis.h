// Whether a model's outputs look healthy at a width: figures of its logits, and findings by fixed thresholds, each of
// which names its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/json.h"
#include "src/base/named_enum.h"

namespace qat {

struct LogitFigures {
  std::int64_t logits = 0;  // that the figures are of
  std::int64_t not_a_number = 0, infinite = 0;
  double mean = 0.0, deviation = 0.0, least = 0.0, most = 0.0, median = 0.0;  // of the finite ones
  double near_zero = 0.0;                                                     // share below 1e-6 in magnitude
  double entropy = 0.0;                                // of the next token, mean over places, nats
  std::vector<std::pair<std::int64_t, double>> top_5;  // ids and logits of what follows the sample
};

struct Diagnosis {
  std::string bits;  // the row's name
  LogitFigures logits;
  double run_variance = 0.0;             // mean over logits of the variance over kDiagnosisRuns equal passes
  double pass_difference = 0.0;          // largest difference of a logit between passes that each read all weights anew
  double drift = 0.0;                    // mean logit of the last window less that of the first
  std::optional<double> perplexity;      // of the sample, by sliding windows
  std::int64_t adapters = 0;             // that layers have at this width
  std::int64_t zero_adapters = 0;        // whose B is zero: they add nothing
  std::int64_t adapter_parameters = 0;   // of this width's adapters
  std::int64_t parameters = 0;           // of the whole model
  std::optional<double> adapter_effect;  // mean |difference of a logit| without them; none: there are no adapters
};
inline constexpr int kDiagnosisRuns = 5;
inline constexpr int kConsistencyPasses = 3;

enum class HealthLevel : unsigned char { kGood, kNote, kWarning, kCritical };
template <>
struct EnumNames<HealthLevel> {
  static constexpr std::array names{"ok", "note", "warning", "critical"};
};

struct HealthFinding {
  HealthLevel severity = HealthLevel::kGood;
  std::string check;  // "logit mean"
  std::string text;   // "-52.1: below -50"
};

// baseline: of the width that others are compared with; null: this is it, or there is none.
std::vector<HealthFinding> health_findings(const Diagnosis& diagnosis, const Diagnosis* baseline);

// A section for every width, findings with their thresholds first. baseline: an index, or none.
std::string diagnosis_text(const std::vector<Diagnosis>& all, std::optional<std::size_t> baseline);
Value diagnosis_value(const std::vector<Diagnosis>& all, std::optional<std::size_t> baseline);

}  // namespace qat
