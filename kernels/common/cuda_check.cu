#include <string>

#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"

namespace qat {

void throw_cuda_error(cudaError_t code, const char* expression, const char* file, int line) {
  (void)cudaGetLastError();
  const ErrorKind kind = code == cudaErrorMemoryAllocation ? ErrorKind::kOutOfMemory : ErrorKind::kInternal;
  throw Error(kind, std::string(cudaGetErrorName(code)) + " (" + cudaGetErrorString(code) + ") in `" + expression +
                        "` at " + file + ":" + std::to_string(line));
}

}  // namespace qat
