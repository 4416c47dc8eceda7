// FlatMemory on the GPU that is current on the calling thread.
#pragma once

#include <memory>

#include "dist/grad/flat_memory.h"
#include "kernels/common/view.h"

namespace qat::dist {

// From cudaMalloc; zero() and add() are ordered on `stream`. Only in a build with CUDA: elsewhere, using it throws
// Error(kConfig).
std::shared_ptr<FlatMemory> cuda_flat_memory(StreamRef stream = {});

}  // namespace qat::dist
