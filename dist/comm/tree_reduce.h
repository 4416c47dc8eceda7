// The one place that fixes in which order contributions are combined: the balanced binary tree of communicator.h.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/communicator.h"
#include "kernels/common/view.h"

namespace qat::dist {

// How many of n >= 2 contiguous leaves form the left child of their root: the largest power of two below n. For a
// power of two that is half; for 6 leaves the tree is ((0+1)+(2+3))+(4+5).
std::int64_t left_leaves(std::int64_t n);

// out[i] = inputs[0][i] op inputs[1][i] op ..., associated as the tree over the inputs. Each input and out: [elems] of
// `dtype`, in host memory; out may be one of the inputs. Maximum and minimum are NaN if any input is, so that a
// non-finite value on one rank is seen by all.
void tree_reduce(ReduceOp op, DType dtype, std::span<const void* const> inputs, void* out, std::int64_t elems);

// Throws kInternal for what tree_reduce has no arithmetic for: bfloat16 (add in float32 and round once instead), and
// the sum of 8-bit integers, which would overflow from two ranks on (widen to int32).
void require_reducible(ReduceOp op, DType dtype);

}  // namespace qat::dist
