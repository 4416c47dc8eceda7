#include "dist/comm/nccl_handle.h"

#include <string>

#include "dist/comm/start_hints.h"
#include "kernels/common/error.h"

namespace qat::dist {

void throw_nccl_error(ncclResult_t code, const char* call, const char* file, int line) {
  const char* const words = ncclGetLastError(nullptr);
  const std::string last = words == nullptr ? "" : words;
  std::string text = std::string("NCCL failed: ") + ncclGetErrorString(code);
  if (!last.empty()) text += " (" + last + ")";
  // NCCL has no code for it: "Cuda failure 2 'out of memory'", "Failed to CUDA calloc 1024 bytes", "Failed to malloc
  // ..."
  const bool no_memory = last.find("out of memory") != std::string::npos ||
                         (last.find("Failed to") != std::string::npos && last.find("alloc") != std::string::npos);
  throw Error(no_memory ? ErrorKind::kOutOfMemory : ErrorKind::kCommunication,
              text + " in `" + call + "` at " + file + ":" + std::to_string(line) + nccl_algorithm_hint(last) +
                  "; NCCL_DEBUG=WARN tells more");
}

}  // namespace qat::dist
