#include <string>

#include "kernels/common/cuda_allocation.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"

namespace qat {

void check_cuda_allocation(cudaError_t code, std::size_t bytes, const char* expression, const char* file, int line) {
  if (code == cudaSuccess) return;
  if (code != cudaErrorMemoryAllocation) throw_cuda_error(code, expression, file, line);
  (void)cudaGetLastError();  // or the next call would report it again
  std::string room;
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess)
    room = ", of which " + std::to_string(free) + " of " + std::to_string(total) + " bytes are free,";
  throw Error(ErrorKind::kOutOfMemory, "tried to allocate " + std::to_string(bytes) + " bytes of GPU memory" + room +
                                           " in `" + expression + "` at " + file + ":" + std::to_string(line));
}

}  // namespace qat
