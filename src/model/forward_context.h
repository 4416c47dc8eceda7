// Everything about one pass that is not a parameter: widths, mode and the place in the run that random draws depend on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "src/base/rng.h"
#include "src/model/parameter_store.h"
#include "src/quant/gradient_sink.h"
#include "src/quant/precision_map.h"
#include "src/quant/prepared_linear.h"
#include "src/quant/quantizer.h"
#include "src/quant/range_observer.h"

namespace qat {

// What is made of the weights for as long as they do not change: the micro-batches of one step, one evaluation. Passes
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
  // What was prepared stays as memory for the same layers' next weights.
  void clear() {
    for (auto& [key, layer] : prepared_) spare_[{key.linear, key.transposed}] = std::move(layer);
    codes_.clear(), prepared_.clear(), heads_.clear();
  }
  template <typename Encode>
  const Coded& get(const Key& key, Encode&& encode) {
    return get_or_make(codes_, key, encode);
  }
  template <typename Prepare>
  std::shared_ptr<const PreparedLinear> prepared(const Key& key, Prepare&& prepare) {
    return get_or_make(prepared_, key, prepare);
  }
  // A layer that was prepared before the last clear() and that nobody uses any more, or null. For `prepare` above.
  std::shared_ptr<const PreparedLinear> take_spare(std::int64_t linear, bool transposed) {
    const auto found = spare_.find({linear, transposed});
    if (found == spare_.end()) return nullptr;
    std::shared_ptr<const PreparedLinear> spare = std::move(found->second);
    spare_.erase(found);
    return spare.use_count() == 1 ? spare : nullptr;
  }
  // An unquantized matrix in the activations' dtype (the output projection).
  template <typename Convert>
  at::Tensor converted(const Key& key, Convert&& convert) {
    return get_or_make(heads_, key, convert);
  }

 private:
  template <typename Value, typename Make>
  const Value& get_or_make(std::map<Key, Value>& map, const Key& key, Make&& make) {
    const std::lock_guard lock(mutex_);
    const auto found = map.find(key);
    return found != map.end() ? found->second : map.emplace(key, make()).first->second;
  }

  std::mutex mutex_;
  std::map<Key, Coded> codes_;
  std::map<Key, std::shared_ptr<const PreparedLinear>> prepared_;
  std::map<Key, at::Tensor> heads_;
  std::map<std::pair<std::int64_t, bool>, std::shared_ptr<const PreparedLinear>> spare_;
};

struct ForwardContext {
  const PrecisionMap* precision = nullptr;  // of every quantized linear
  bool training = false;                    // dropout is active
  bool stochastic_gradients = true;
  WeightCache* weight_cache = nullptr;    // optional
  GradientSink* gradient_sink = nullptr;  // optional; of this pass alone
  const RangeTable* ranges = nullptr;     // optional: calibrated ranges in place of those in force
  // A calibration: activations pass unquantized, these observe the layers whose range is wanted, adapters are off.
  RangeObservers* observers = nullptr;
  // Random draws are a function of these three (and of the layer), never of the rank.
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t micro_batch = 0;  // index in the global batch

  bool calibrating() const { return observers != nullptr; }
  kernels::RngKey rng(RngPurpose purpose, std::uint64_t slot) const {
    return rng_key(seed, purpose, step, micro_batch, slot);
  }
};

}  // namespace qat
