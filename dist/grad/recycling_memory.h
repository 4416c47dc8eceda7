// Flat memory for buffers that come and go all the time.
#pragma once

#include <memory>

#include "dist/grad/flat_memory.h"

namespace qat::dist {

// Takes from `memory` what it has not got, keeps what is freed, and hands the smallest that suffices out again, also
// for fewer elements. For one thread at a time.
std::shared_ptr<FlatMemory> recycling_memory(std::shared_ptr<FlatMemory> memory);

}  // namespace qat::dist
