#include "kernels/grad/tree_sum_cpu.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/common/scratch.h"

namespace qat::kernels {
namespace {

// Elements summed at a time: the partial sums of one chunk, two for each level of the tree, stay in the L1/L2 cache.
constexpr std::int64_t kChunkElems = 2048;
constexpr std::int64_t kGrainElems = 16384;

class ChunkTree {
 public:
  ChunkTree(const float* x, std::int64_t parts, std::int64_t stride)
      : x_(x),
        parts_(parts),
        stride_(stride),
        spare_(2 * static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(parts))) * kChunkElems) {}

  // `sum` is written only after every part of the chunk was read, so it may be the first part.
  void run(std::int64_t begin, std::int64_t elems, float* sum) {
    const float* const result = node(0, parts_, begin, elems, /*level=*/0, sum);
    if (result != sum) std::memcpy(sum, result, static_cast<std::size_t>(elems) * sizeof(float));
  }

 private:
  // The sum of parts [first, first + count): a single part is returned where it lies, anything else is in `target`.
  const float* node(std::int64_t first, std::int64_t count, std::int64_t begin, std::int64_t elems, std::int64_t level,
                    float* target) {
    if (count == 1) return x_ + first * stride_ + begin;
    // The largest power of two below count: pairing neighbours level by level, the last one going up unpaired.
    const auto left_count = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(count - 1)));
    float* const spare = spare_.get() + 2 * level * kChunkElems;
    const float* const left = node(first, left_count, begin, elems, level + 1, spare);
    const float* const right =
        node(first + left_count, count - left_count, begin, elems, level + 1, spare + kChunkElems);
    for (std::int64_t i = 0; i < elems; ++i) target[i] = left[i] + right[i];
    return target;
  }

  const float* x_;
  std::int64_t parts_;
  std::int64_t stride_;
  Scratch<float> spare_;
};

}  // namespace

void tree_sum_cpu(const Exec& exec, std::span<const float> x, std::int64_t parts, std::span<float> sum) {
  const auto elems = static_cast<std::int64_t>(sum.size());
  exec.for_ranges(elems, kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    ChunkTree tree(x.data(), parts, elems);
    for (std::int64_t at = begin; at < end; at += kChunkElems)
      tree.run(at, std::min(kChunkElems, end - at), sum.data() + at);
  });
}

void add_flat_cpu(const Exec& exec, std::span<float> a, std::span<const float> b) {
  exec.for_ranges(static_cast<std::int64_t>(a.size()), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    float* const to = a.data();
    const float* const from = b.data();
    for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
  });
}

}  // namespace qat::kernels
