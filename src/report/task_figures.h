// How a model did at a task at one width.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/named_enum.h"

namespace qat {

// What makes one of several answers the likeliest: the log-likelihood of the whole, or that a token, or a byte of it.
enum class ChoiceRule : unsigned char { kSum, kToken, kByte };
template <>
struct EnumNames<ChoiceRule> {
  static constexpr std::array names{"sum", "token", "byte"};
};
inline constexpr std::size_t kChoiceRules = EnumNames<ChoiceRule>::names.size();

// How many of some items were right.
struct Proportion {
  std::int64_t right = 0;
  std::int64_t items = 0;

  double value() const;  // 0..1; not a number without items
  // Of the mean of as many independent draws, sqrt(p (1 - p) / (items - 1)); nothing for fewer than two.
  std::optional<double> standard_error() const;
};

using ByRule = std::array<Proportion, kChoiceRules>;

// Some of a task's items: those of a category.
struct GroupFigures {
  std::string name;
  ByRule right{};
};

struct TaskFigures {
  std::string task;  // its column
  std::string kind, file;
  ByRule right{};
  bool has_groups = false;           // its items have categories
  std::vector<GroupFigures> groups;  // of a task that has, in order of first appearance
  std::int64_t truncated = 0;        // texts whose context lost its beginning
  std::int64_t merged = 0;           // texts that share a token with their context
  std::string error;                 // why there are no figures; empty: there are

  const Proportion& by(ChoiceRule rule) const { return right[static_cast<std::size_t>(rule)]; }
};

// How well a text's tokens were predicted, every one after the first scored once.
struct TextFigures {
  std::string text;  // its column
  std::string file;
  std::int64_t window = 0, stride = 0;  // tokens that a window reads, and between the starts of two
  double nll = 0.0;                     // natural logarithm, summed over the scored tokens
  std::int64_t tokens_scored = 0;
  std::int64_t likeliest = -1, in_top_5 = -1;  // scored tokens that are the likeliest, or among the five; -1: not asked
  bool quick = false;  // the text's beginning alone, and its mean loss at most kQuickLossLimit (quick perplexity)
  std::string error;   // why there are no figures; empty: nothing went wrong

  double mean_nll() const;
  // exp of the mean loss; nothing where that is not a finite number.
  std::optional<double> perplexity() const;
  // Whether the limit of a quick perplexity was reached.
  bool clamped() const;
  // Why there is no perplexity; empty if there is.
  std::string failure() const;
};
inline constexpr double kQuickLossLimit = 20.0;  // nats a token

// The time of one layer in such passes.
struct LayerSpeed {
  std::string layer;  // "h.0.attn.c_attn"
  double mean_ms = 0.0, deviation_ms = 0.0;
};

// How fast passes without gradient are, each of which is waited for.
struct SpeedFigures {
  std::int64_t batch = 0, length = 0;                                       // sequences of a pass, and tokens of each
  std::int64_t passes = 0, warm_up = 0;                                     // timed, and before them
  double mean_ms = 0.0, deviation_ms = 0.0, least_ms = 0.0, most_ms = 0.0;  // of a pass
  double p50_ms = 0.0, p95_ms = 0.0, p99_ms = 0.0;
  std::int64_t peak_bytes = 0;     // device memory, the model's included; 0: not known
  std::vector<LayerSpeed> layers;  // in the order of a pass, of passes of their own; empty: not asked

  double tokens_per_second() const;
};

}  // namespace qat
