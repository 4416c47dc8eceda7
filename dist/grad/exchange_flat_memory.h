// Flat memory for what is sent and received.
#pragma once

#include <memory>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_memory.h"

namespace qat::dist {

// `comm`'s exchange memory where it has some, and `memory`'s elsewhere: allocate() is collective, and buffers are given
// up in the same order on all ranks. The rest is `memory`'s. comm outlives all buffers.
std::shared_ptr<FlatMemory> exchange_flat_memory(Communicator& comm, std::shared_ptr<FlatMemory> memory);

}  // namespace qat::dist
