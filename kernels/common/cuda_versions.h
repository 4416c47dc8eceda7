// Which CUDA this process runs with, for code that sees no CUDA header.
#pragma once

namespace qat {

// As CUDA counts: 13000 is 13.0. -1: built without CUDA; no driver.
struct CudaVersions {
  int runtime = -1;
  int driver = -1;
};
CudaVersions cuda_versions() noexcept;

}  // namespace qat
