// A matrix in the form in which a product of a linear layer takes it (gemm_path.h): integer codes or floats.
#pragma once

#include <ATen/core/Tensor.h>

#include "src/quant/quantizer.h"
#include "src/quant/wide_codes.h"

namespace qat {

// One of the first three; values also beside codes, where someone wants what they stand for more than once.
struct LinearOperand {
  Coded codes{};        // up to 8 bits
  WideCoded wide{};     // up to 11 bits, on a GPU
  at::Tensor values{};  // [rows, cols] in the activations' dtype
  // What it was before it was quantized, [rows, cols] in the activations' dtype, where an adapter reads that.
  at::Tensor raw{};

  bool is_coded() const { return codes.scales.defined(); }
  bool is_wide() const { return wide.codes.defined(); }
  const at::Tensor& matrix() const { return is_coded() ? codes.codes : is_wide() ? wide.codes : values; }
  std::int64_t rows() const { return matrix().size(0); }
  std::int64_t cols() const { return matrix().size(1); }
};

// What the operand stands for, in `dtype`; codes must be there by rows.
at::Tensor values_of(const LinearOperand& operand, at::ScalarType dtype);

}  // namespace qat
