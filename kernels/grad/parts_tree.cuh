// The balanced tree of tree_sum.h over up to 64 parts, in registers.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace qat::kernels {

constexpr int kMostTreeParts = 64;  // that one kernel sums

__device__ __forceinline__ float tree_plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float4 tree_plus(float4 a, float4 b) {
  return make_float4(tree_plus(a.x, b.x), tree_plus(a.y, b.y), tree_plus(a.z, b.z), tree_plus(a.w, b.w));
}

// The complete tree over kLeaves (a power of two) values: load(first), load(first + 1), ...
template <int kLeaves, typename Load>
__device__ __forceinline__ auto full_tree(const Load& load, int first) {
  if constexpr (kLeaves == 1) {
    return load(first);
  } else {
    const auto left = full_tree<kLeaves / 2>(load, first);
    return tree_plus(left, full_tree<kLeaves / 2>(load, first + kLeaves / 2));
  }
}

// The tree over `leaves` of 1..kMost values: complete subtrees on the left, what is left of the last one on the right.
template <int kMost, typename Load>
__device__ __forceinline__ auto any_tree(const Load& load, int first, int leaves) {
  if constexpr (kMost == 1) {
    return load(first);
  } else {
    constexpr int kHalf = kMost / 2;
    if (leaves <= kHalf) return any_tree<kHalf>(load, first, leaves);
    const auto left = full_tree<kHalf>(load, first);
    return tree_plus(left, any_tree<kHalf>(load, first + kHalf, leaves - kHalf));
  }
}

// kMost / 2 < parts <= kMost.
template <int kMost, typename Load>
__device__ __forceinline__ auto parts_tree(const Load& load, int parts) {
  return parts == kMost ? full_tree<kMost>(load, 0) : any_tree<kMost>(load, 0, parts);
}

// launch(std::integral_constant<int, kMost>) for the smallest power of two kMost that is not below `parts`.
template <int kMost = kMostTreeParts, typename Launch>
void with_tree_of(int parts, const Launch& launch) {
  if constexpr (kMost > 2) {
    if (parts <= kMost / 2) return with_tree_of<kMost / 2>(parts, launch);
  }
  launch(std::integral_constant<int, kMost>());
}

}  // namespace qat::kernels
