// Where flat fp32 buffers live, and the arithmetic on them: lets TreeAccumulator work on a CPU and on a GPU alike.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace qat::dist {

class FlatMemory {
 public:
  virtual ~FlatMemory() = default;
  // [elems], zeroed; freed with the last copy of the pointer. elems may be 0.
  virtual std::shared_ptr<float> allocate(std::int64_t elems) = 0;
  virtual void zero(std::span<float> values) = 0;
  // a += b.
  virtual void add(std::span<float> a, std::span<const float> b) = 0;
  // a = b; they do not overlap.
  virtual void copy(std::span<float> a, std::span<const float> b) = 0;
  // Returns when all of this is done.
  virtual void wait() {}
};

// Host memory, on the calling thread.
std::shared_ptr<FlatMemory> host_flat_memory();

}  // namespace qat::dist
