// Activation checkpointing: a part of the network that keeps only its inputs and is computed again for backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace qat {

// Tensors to tensors: a pure function of its arguments and of the parameters that it holds.
using Segment = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

// segment(inputs), whose intermediate results are dropped. Backward computes them again and goes through them, so what
// the segment holds or points to must live until then; gradients reach `inputs` and `parameters`, and nothing else.
//
// Both times the segment runs with gradients on: the same kernels and the same prepared weights, hence the same bits as
// without recomputation. Without gradients it is segment(inputs).
std::vector<at::Tensor> recomputed(const Segment& segment, const std::vector<at::Tensor>& inputs,
                                   const std::vector<at::Tensor>& parameters);

}  // namespace qat
