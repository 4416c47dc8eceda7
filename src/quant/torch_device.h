// LibTorch on GPUs: loaded only when a run uses them, so that the same program works where there are none.
#pragma once

#include <ATen/core/Tensor.h>

#include "src/quant/compute_config.h"

namespace qat {

// The arithmetic of a run: where tensors live, what activations are stored in, and how fp32 products are computed.
struct ComputeMode {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // of activations and of their gradients
  bool tf32 = false;                  // fp32 products may use the tensor cores' tf32
  bool repeatable_attention = false;  // no attention kernel whose sums depend on timing

  bool is_cuda() const { return device.is_cuda(); }
  at::TensorOptions activations() const { return at::TensorOptions().device(device).dtype(dtype); }
};

// Loads libtorch_cuda from beside libtorch_cpu, and makes GPU `index` this process's. Idempotent. Before any other work
// with LibTorch, which looks for its CUDA half once. Throws Error(kConfig) saying how to get that half if it is not
// there or does not load.
void use_cuda(int index);

// The mode for CPUs or, with `cuda`, for GPU `index` of this process, in force in LibTorch. Throws Error(kConfig) for
// what the device cannot do.
ComputeMode make_compute_mode(bool cuda, FloatChoice dtype, AttentionChoice attention, int index = 0);

}  // namespace qat
