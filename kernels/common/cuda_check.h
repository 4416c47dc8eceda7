// Every CUDA call goes through QAT_CUDA_CHECK, launches included. For .cu files and nccl_*.cc only.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/common/exec.h"

namespace qat {

// Throws Error(kOutOfMemory) for a failed allocation, Error(kInternal) for anything else, with the call, the code's
// name and the place; clears the error first, or the handler's own CUDA calls would report it again.
[[noreturn]] void throw_cuda_error(cudaError_t code, const char* expression, const char* file, int line);

inline cudaStream_t cuda_stream(const kernels::Exec& exec) { return static_cast<cudaStream_t>(exec.stream.handle); }

}  // namespace qat

#define QAT_CUDA_CHECK(expr)                                          \
  do {                                                                \
    if (const cudaError_t qat_code = (expr); qat_code != cudaSuccess) \
      ::qat::throw_cuda_error(qat_code, #expr, __FILE__, __LINE__);   \
  } while (false)
