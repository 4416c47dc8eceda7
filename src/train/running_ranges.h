// Ranges that are running means over training's steps (quant.activation.range "running", and weights by ema): what the
// passes of a step saw, over all ranks, moves the range in force after the step. Passes of updates that were skipped
// are left out.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "dist/comm/communicator.h"
#include "src/base/log.h"
#include "src/model/gpt2.h"
#include "src/quant/range_sink.h"

namespace qat {

class RunningRanges : public RangeSink {
 public:
  // They outlive this. `momentum`: how much of a range in force stays.
  RunningRanges(Gpt2& model, const QuantConfig& quant, dist::Communicator& comm, Logger& log)
      : model_(model), quant_(quant), comm_(comm), log_(log) {}

  // Whether there is any such range; if not, nothing is to be done.
  bool any() const;
  void observe(std::int64_t layer, const RangeWidths& widths, const CalibratedRange& range) override;

  void begin_update() override;
  void count_update() override;

  // A step is about to begin: what was seen of one that was given up is forgotten.
  void begin_step();
  // Collective: updates of the step have changed the parameters, by passes at `maps`. range = m range + (1 - m)
  // (smallest and largest that those updates saw), with the same bits on any number of ranks. One that is not finite
  // changes nothing.
  void end_step(std::span<const PrecisionMap> maps);

 private:
  struct Key {
    std::int64_t layer = 0;
    RangeWidths widths;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  void move_activations();
  void move_weights(std::span<const PrecisionMap> maps);
  // Nothing if one of them is not finite.
  bool mix(const CalibratedRange& in_force, const CalibratedRange& seen, CalibratedRange& mixed) const;

  Gpt2& model_;
  const QuantConfig& quant_;
  dist::Communicator& comm_;
  Logger& log_;
  std::mutex mutex_;
  std::map<Key, CalibratedRange> seen_;     // in this update
  std::map<Key, CalibratedRange> counted_;  // in the step's updates that count
};

}  // namespace qat
