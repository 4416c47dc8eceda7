#include "kernels/common/cpu_isa.h"

namespace qat::kernels {

CpuIsa best_cpu_isa() noexcept {
#if QAT_X86_SIMD
  if (__builtin_cpu_supports("avx2")) return CpuIsa::kAvx2;
#endif
  return CpuIsa::kPortable;
}

}  // namespace qat::kernels
