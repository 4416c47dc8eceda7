// How much of a run each precision has had, and what switching between them does to the loss. Plain sums of numbers
// that all ranks share; its state is part of a checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "src/base/json.h"

namespace qat {

// How the loss changes from one update to the next.
struct LossChanges {
  std::int64_t count = 0;
  double sum = 0.0;        // nats
  double magnitude = 0.0;  // sum of absolute values
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0.0; }
  double mean_magnitude() const { return count > 0 ? magnitude / static_cast<double>(count) : 0.0; }
  bool operator==(const LossChanges&) const = default;
};

class PrecisionUsage {
 public:
  // A pass over a global batch. name: the width's or the map's; macs: multiply-accumulates of the quantizable linear
  // layers, by their weights' width.
  void add_pass(const std::string& name, const std::map<int, double>& macs);

  struct Change {
    double loss = 0.0;      // minus that of the update before
    bool switched = false;  // that one was of another precision
  };
  // An update's loss. name: of the precision it was at; of several passes, anything that is always the same. Nothing
  // for the first one, and for a loss that is not finite, which counts for nothing.
  std::optional<Change> add_loss(const std::string& name, double loss);

  const LossChanges& at_switches() const { return switched_; }
  const LossChanges& at_steady() const { return steady_; }
  // {"passes": [{"precision", "share"}], "macs": [{"weight_bits", "share"}], "switches": {"count", "mean_loss_change",
  // "mean_absolute_loss_change"}, "steady": the same}
  Value report() const;
  // "8: 25.0 %, stripe8&4: 75.0 %" and the same of widths; empty: nothing was added.
  std::string passes_text() const;
  std::string macs_text() const;

  // As text, for checkpoints: exact.
  std::string to_text() const;
  // "" is nothing yet. Throws Error(kCheckpoint) for what to_text does not write.
  static PrecisionUsage from_text(const std::string& text);

  bool operator==(const PrecisionUsage&) const = default;

 private:
  std::map<std::string, std::int64_t> passes_;
  std::map<int, double> macs_;
  LossChanges switched_, steady_;
  std::string last_name_;  // of the newest update; empty: none
  double last_loss_ = 0.0;
};

}  // namespace qat
