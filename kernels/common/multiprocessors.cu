#include "kernels/common/cuda_check.h"
#include "kernels/common/multiprocessors.h"

namespace qat::kernels {

int multiprocessors() {
  int device = 0, count = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace qat::kernels
