#include "dist/comm/tree_reduce.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// Elements combined at a time: the partial sums of one chunk, two for each level of the tree, stay in the L1/L2 cache.
constexpr std::int64_t kChunkElems = 2048;

struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    return a + b;
  }
};
struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return (a > b || a != a) ? a : b;  // a != a: a NaN wins from either side
  }
};
struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return (a < b || a != a) ? a : b;
  }
};

template <typename T, typename Op>
class ChunkReducer {
 public:
  explicit ChunkReducer(std::span<const void* const> inputs)
      : inputs_(inputs), scratch_(static_cast<std::size_t>(2 * levels(inputs.size()) * kChunkElems)) {}

  // `out` is written only after every input of the chunk was read, so it may be one of them.
  void run(std::int64_t begin, std::int64_t elems, T* out) {
    const T* result = node(0, static_cast<std::int64_t>(inputs_.size()), begin, elems, /*level=*/0, out);
    if (result != out) std::memcpy(out, result, static_cast<std::size_t>(elems) * sizeof(T));
  }

 private:
  static int levels(std::size_t leaves) { return static_cast<int>(std::bit_width(leaves)); }

  // The combination of leaves [first, first + count): a leaf is returned where it lies, anything else is in `target`.
  const T* node(std::int64_t first, std::int64_t count, std::int64_t begin, std::int64_t elems, int level, T* target) {
    if (count == 1) return static_cast<const T*>(inputs_[static_cast<std::size_t>(first)]) + begin;
    const std::int64_t left_count = left_leaves(count);
    T* const spare = scratch_.data() + 2 * level * kChunkElems;
    const T* const left = node(first, left_count, begin, elems, level + 1, spare);
    const T* const right = node(first + left_count, count - left_count, begin, elems, level + 1, spare + kChunkElems);
    for (std::int64_t i = 0; i < elems; ++i) target[i] = Op::apply(left[i], right[i]);
    return target;
  }

  std::span<const void* const> inputs_;
  std::vector<T> scratch_;
};

template <typename T, typename Op>
void reduce(std::span<const void* const> inputs, void* out, std::int64_t elems) {
  ChunkReducer<T, Op> reducer(inputs);
  for (std::int64_t begin = 0; begin < elems; begin += kChunkElems) {
    reducer.run(begin, std::min(kChunkElems, elems - begin), static_cast<T*>(out) + begin);
  }
}

template <typename T>
void reduce(ReduceOp op, std::span<const void* const> inputs, void* out, std::int64_t elems) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce<T, Sum>(inputs, out, elems);
    case ReduceOp::kMax:
      return reduce<T, Max>(inputs, out, elems);
    case ReduceOp::kMin:
      return reduce<T, Min>(inputs, out, elems);
  }
}

}  // namespace

std::int64_t left_leaves(std::int64_t n) {
  QAT_CHECK(n >= 2, "only a tree of two leaves or more has children");
  return static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(n - 1)));
}

void require_reducible(ReduceOp op, DType dtype) {
  QAT_CHECK(dtype != DType::kBFloat16, "bfloat16 is not reduced on a CPU: convert to float32 first");
  const bool narrow = dtype == DType::kInt8 || dtype == DType::kUInt8;
  QAT_CHECK(!(narrow && op == ReduceOp::kSum), "a sum of 8-bit integers would overflow: widen to int32 first");
}

void tree_reduce(ReduceOp op, DType dtype, std::span<const void* const> inputs, void* out, std::int64_t elems) {
  QAT_CHECK(!inputs.empty(), "nothing to reduce");
  require_reducible(op, dtype);
  if (elems == 0) return;
  if (inputs.size() == 1) {
    if (inputs[0] != out) std::memcpy(out, inputs[0], static_cast<std::size_t>(elems) * size_of(dtype));
    return;
  }
  switch (dtype) {
    case DType::kFloat32:
      return reduce<float>(op, inputs, out, elems);
    case DType::kFloat64:
      return reduce<double>(op, inputs, out, elems);
    case DType::kInt8:
      return reduce<std::int8_t>(op, inputs, out, elems);
    case DType::kUInt8:
      return reduce<std::uint8_t>(op, inputs, out, elems);
    case DType::kInt32:
      return reduce<std::int32_t>(op, inputs, out, elems);
    case DType::kInt64:
      return reduce<std::int64_t>(op, inputs, out, elems);
    case DType::kBFloat16:
      break;  // refused above
  }
}

}  // namespace qat::dist
