// Everything about one pass that is not a parameter: widths, mode and the place in the run that random draws depend on.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

#include "src/base/rng.h"
#include "src/quant/precision_map.h"
#include "src/quant/quantizer.h"

namespace qat {

// Codes of the weights for as long as the weights do not change: the micro-batches of one step, one evaluation. Passes
// of several threads may share it.
class WeightCache {
 public:
  struct Key {
    std::int64_t linear;
    int role;  // 0: weight, 1: LoRA A
    int bits;
    bool transposed;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  void clear() { codes_.clear(); }
  template <typename Encode>
  const Coded& get(const Key& key, Encode&& encode) {
    const std::lock_guard lock(mutex_);
    const auto found = codes_.find(key);
    return found != codes_.end() ? found->second : codes_.emplace(key, encode()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Coded> codes_;
};

struct ForwardContext {
  const PrecisionMap* precision = nullptr;  // of every quantized linear
  bool training = false;                    // dropout is active
  bool calibrating = false;  // activations pass unquantized and their ranges are observed; adapters are off
  bool stochastic_gradients = true;
  WeightCache* weight_cache = nullptr;  // optional
  // Random draws are a function of these three (and of the layer), never of the rank.
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t micro_batch = 0;  // index in the global batch

  kernels::RngKey rng(RngPurpose purpose, std::uint64_t slot) const {
    return rng_key(seed, purpose, step, micro_batch, slot);
  }
};

}  // namespace qat
