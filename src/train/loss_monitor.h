// What losses a run has been having, and whether the next one belongs to them. Pure arithmetic in double on numbers
// that all ranks share; its state is part of a checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace qat {

class LossMonitor {
 public:
  // window: steps that the running mean and variance look back over.
  explicit LossMonitor(std::int64_t window = 100) : window_(window) {}

  // A step's loss at a precision, by its key (precision_key in configured_maps.h); each has statistics of its own,
  // since few bits have a higher loss.
  void add(const std::string& precision, double loss);

  // Standard deviations above the running mean; nothing below it counts. 0 until the precision has had a whole window,
  // so that nothing in it can be called a spike. A loss that is not finite: infinity.
  double deviation(const std::string& precision, double loss) const;

  // Whether parameters that give this loss are worth keeping: it is finite, and not far above what the run has had.
  // Wide of the mark on purpose (a nat and six standard deviations above the mean of the precision or, for one without
  // statistics, three times the highest mean of the others; three times a uniform guess's loss before there are any):
  // what it must tell apart is training from wreckage.
  bool is_plausible(const std::string& precision, double loss, std::int64_t vocab_size) const;

  // As text, for checkpoints: exact.
  std::string to_text() const;
  // maps: keys of the maps that the text's run had, in their order, for texts of programs that numbered them. Throws
  // Error(kCheckpoint) for what to_text does not write.
  static LossMonitor from_text(const std::string& text, std::int64_t window, const std::vector<std::string>& maps = {});

  bool operator==(const LossMonitor&) const = default;

 private:
  struct Statistics {
    std::int64_t count = 0;
    double mean = 0.0;
    double variance = 0.0;
    bool operator==(const Statistics&) const = default;
  };
  std::int64_t window_;
  std::map<std::string, Statistics> by_precision_;
};

}  // namespace qat
