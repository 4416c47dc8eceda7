// MPI backend on host buffers.
//
// MPI moves bytes; the arithmetic is tree_reduce's, because MPI_Allreduce may associate a sum in any way, and
// differently for every count of ranks. A reduction of n elements over P ranks: rank r receives the r-th block of n/P
// elements from everybody, combines the P blocks as the tree, and all blocks are gathered: each rank sends and receives
// 2n(P-1)/P elements, the least possible. Small buffers take one round instead: gather everything, combine everywhere.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/communicator.h"
#include "dist/comm/mpi_session.h"

namespace qat::dist {

struct MpiCommOptions {
  // An all-reduce of at most so many bytes is bound by latency, not bandwidth, and takes one round.
  std::int64_t small_bytes = 4096;
  // Larger messages are cut into such pieces: bounds the scratch memory of a reduction and keeps MPI's int counts from
  // overflowing. At most 2^30.
  std::int64_t segment_bytes = std::int64_t{8} << 20;
};

// A group of all ranks, on a duplicate of MPI_COMM_WORLD: its messages never meet those of other MPI users. Collective.
// Must be destroyed before the session.
std::unique_ptr<Communicator> make_mpi_world(const MpiSession& session, const MpiCommOptions& options = {});

}  // namespace qat::dist
