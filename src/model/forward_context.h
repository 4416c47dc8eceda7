// Everything about one pass that is not a parameter: widths, mode and the place in the run that random draws depend on.
#pragma once

#include <cstdint>

#include "src/base/rng.h"
#include "src/model/weight_cache.h"
#include "src/quant/gradient_sink.h"
#include "src/quant/precision_map.h"
#include "src/quant/range_observer.h"
#include "src/quant/range_sink.h"

namespace qat {

class KvCache;

struct ForwardContext {
  const PrecisionMap* precision = nullptr;  // of every quantized linear
  bool training = false;                    // dropout is active
  bool stochastic_gradients = true;
  WeightCache* weight_cache = nullptr;    // optional
  GradientSink* gradient_sink = nullptr;  // optional; of this pass alone, until its backward has ended
  const RangeTable* ranges = nullptr;     // optional: calibrated ranges in place of those in force
  RangeSink* range_sink = nullptr;        // of a pass that trains: where running ranges are taken from
  // A calibration: activations pass unquantized, these observe the layers whose range is wanted, adapters are off.
  RangeObservers* observers = nullptr;
  // Optional, of passes without gradient: keys and values of the tokens before these (src/model/kv_cache.h), to which
  // the pass adds its own. Positions go on from there.
  KvCache* kv_cache = nullptr;
  // Random draws are a function of these four (and of the layer), never of the rank.
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t micro_batch = 0;  // index in the global batch
  std::uint64_t pass = 0;         // of those that the step makes over this micro-batch

  bool calibrating() const { return observers != nullptr; }
  kernels::RngKey rng(RngPurpose purpose, std::uint64_t slot) const {
    return rng_key(seed, purpose, step, pass_of(micro_batch, pass), slot);
  }
};

}  // namespace qat
