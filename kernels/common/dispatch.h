// The only place where a kernel call chooses its device.
#pragma once

#include <string>

#include "kernels/common/error.h"
#include "kernels/common/exec.h"

#ifndef QAT_HAS_CUDA
#error "the build says whether *.cu files are compiled: QAT_HAS_CUDA is 0 or 1 for every target under kernels/"
#endif

namespace qat::kernels {

// Runs `cpu` or `cuda` for exec's device. `op` names the operation in the message of a build that has no CUDA half;
// such a build never instantiates a call of `cuda`, so that what it calls need not exist.
template <typename Cpu, typename Cuda>
void dispatch(const Exec& exec, [[maybe_unused]] const char* op, Cpu&& cpu, [[maybe_unused]] Cuda&& cuda) {
  if (exec.device == Device::kCpu) return cpu();
#if QAT_HAS_CUDA
  return cuda();
#else
  throw Error(ErrorKind::kConfig, std::string(op) + " was asked to run on a CUDA device, but this program is built " +
                                      "without CUDA: use the device \"cpu\"");
#endif
}

}  // namespace qat::kernels
