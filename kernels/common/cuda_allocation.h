// QAT_CUDA_ALLOCATE: QAT_CUDA_CHECK for a call that asks for GPU memory. For .cu files.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace qat {

// Throws Error(kOutOfMemory) that says how much was asked for and how much was free, or throw_cuda_error's.
void check_cuda_allocation(cudaError_t code, std::size_t bytes, const char* expression, const char* file, int line);

}  // namespace qat

// A macro only because it must quote the call and its place.
#define QAT_CUDA_ALLOCATE(bytes, expr) ::qat::check_cuda_allocation((expr), (bytes), #expr, __FILE__, __LINE__)
