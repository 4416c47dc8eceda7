// The CUTLASS kernels as plain functions: one table for each kind of output.
// (Outputs that are added to take cuBLASLt: nothing that has to be fast does that.)
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

// y[m,n] = round((row_scales[m] col_scales[n]) sum_k a[m,k] b[n,k] + bias[n]).
struct Sm90Call {
  const std::int8_t* a = nullptr;
  const std::int8_t* b = nullptr;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  const float* row_scales = nullptr;
  const float* col_scales = nullptr;
  bool per_row = false;  // else row_scales[0] serves all
  bool per_col = false;
  const float* bias = nullptr;  // may be null
  void* y = nullptr;
  std::int64_t stride = 0;  // elements, of y
  int sm_count = 0;
};

struct Sm90Tile {
  const char* name;
  bool (*launch)(const Exec& exec, const Sm90Call& call);  // false, and nothing enqueued: the shape does not fit
};

std::span<const Sm90Tile> sm90_tiles_bf16();
std::span<const Sm90Tile> sm90_tiles_fp32();

}  // namespace qat::kernels
