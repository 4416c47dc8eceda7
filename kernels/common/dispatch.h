// The only place where a kernel call chooses its device.
#pragma once

#include <string>

#include "kernels/common/error.h"
#include "kernels/common/exec.h"

namespace qat::kernels {

// Runs `cpu` for Device::kCpu. `op` names the operation in the message of a build that has no CUDA half.
template <typename Cpu>
void dispatch(const Exec& exec, const char* op, Cpu&& cpu) {
  if (exec.device == Device::kCpu) return cpu();
  throw Error(ErrorKind::kConfig, std::string(op) + " was asked to run on a CUDA device, but this program is built " +
                                      "without CUDA: use the device \"cpu\"");
}

}  // namespace qat::kernels
