#include "dist/grad/flat_memory.h"

#include <algorithm>
#include <cstddef>

namespace qat::dist {
namespace {

class HostFlatMemory final : public FlatMemory {
 public:
  std::shared_ptr<float> allocate(std::int64_t elems) override {
    return {new float[static_cast<std::size_t>(elems)](), std::default_delete<float[]>()};
  }
  void zero(std::span<float> values) override { std::fill(values.begin(), values.end(), 0.0F); }
  void add(std::span<float> a, std::span<const float> b) override {
    float* const to = a.data();
    const float* const from = b.data();
    for (std::size_t i = 0; i < a.size(); ++i) to[i] += from[i];
  }
  void copy(std::span<float> a, std::span<const float> b) override { std::copy(b.begin(), b.end(), a.begin()); }
};

}  // namespace

std::shared_ptr<FlatMemory> host_flat_memory() { return std::make_shared<HostFlatMemory>(); }

}  // namespace qat::dist
