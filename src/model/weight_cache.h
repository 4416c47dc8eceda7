// What is made of the weights for as long as they do not change: the micro-batches of one step, one evaluation. Passes
// of several threads may share it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "src/quant/gemm_path.h"
#include "src/quant/prepared_linear.h"

namespace qat {

class WeightCache {
 public:
  struct Key {
    std::int64_t linear = 0;  // index in PrecisionMap, or another number that no other layer has
    GemmPath path = GemmPath::kPlain;
    int bits = BitWidth::kFull;  // of the weight
    bool backward = false;       // with what only backward reads
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  // What was prepared stays as memory for the same layers' next weights.
  void clear() {
    for (auto& [key, layer] : prepared_) spare_[{key.linear, key.backward}] = std::move(layer);
    prepared_.clear();
  }

  template <typename Prepare>
  std::shared_ptr<const PreparedLinear> prepared(const Key& key, Prepare&& prepare) {
    const std::lock_guard lock(mutex_);
    const auto found = prepared_.find(key);
    return found != prepared_.end() ? found->second : prepared_.emplace(key, prepare()).first->second;
  }
  // A layer that was prepared before the last clear() and that nobody uses any more, or null. For `prepare` above.
  std::shared_ptr<const PreparedLinear> take_spare(const Key& key) {
    const auto found = spare_.find({key.linear, key.backward});
    if (found == spare_.end()) return nullptr;
    std::shared_ptr<const PreparedLinear> spare = std::move(found->second);
    spare_.erase(found);
    return spare.use_count() == 1 ? spare : nullptr;
  }

 private:
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const PreparedLinear>> prepared_;
  std::map<std::pair<std::int64_t, bool>, std::shared_ptr<const PreparedLinear>> spare_;
};

}  // namespace qat
