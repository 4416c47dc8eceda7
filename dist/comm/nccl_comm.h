// NCCL backend on GPU memory, over a control communicator (MPI) for everything on the host.
//
// Buffers with Device::kCuda travel by NCCL, ordered on the given stream (null: the default stream) and not finished
// when the call returns. Buffers with Device::kCpu are passed on to the control communicator, so host-side code runs
// unchanged; barrier() is the control communicator's and says nothing about work on streams.
//
// NCCL moves bytes; fp32 sums are kernels::tree_sum's, because NCCL may associate a sum in any way, and differently for
// every count of ranks, message size and topology. A reduce-scatter is a grouped all-to-all of the shards and one
// kernel: each rank sends and receives n(P-1)/P elements, as NCCL's own would. Integers are reduced by NCCL: their
// order does not matter. Sums of doubles, and maxima and minima of floats (NCCL's ignore NaN), take the way through the
// host: they are small wherever this program needs them, and the only calls here that wait for the stream.
//
// Limits of point to point on GPU memory: NCCL has no tags, so messages of a pair must be received in the order in
// which they were sent, those of one exchange counting as sent and received in the order of their tags; a send may hold
// up its stream until the peer receives.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/communicator.h"

namespace qat::dist {

struct NcclCommOptions {
  // An all-reduce of at most so many bytes is bound by latency, not bandwidth: gather everything, sum everywhere.
  std::int64_t small_bytes = std::int64_t{256} << 10;
  // Bounds the scratch memory of a reduction; larger ones are done in pieces. At least 64 KiB.
  std::int64_t scratch_bytes = std::int64_t{512} << 20;
  // How long NCCL may take to connect all ranks.
  double start_seconds = 45.0;
};

// A group of all ranks of `control`, each on the device that is current on the calling thread; these must differ
// (device_assignment.h). Later calls must come from threads with the same device. Collective.
//
// Where NCCL cannot start, or not in time, on one rank, all throw AgreedError(kCommunication). `control` is then still
// the caller's, but a thread may be left inside NCCL for ever: say what has happened and end the process without
// destructors (MpiSession::leave).
std::unique_ptr<Communicator> make_nccl_world(std::unique_ptr<Communicator>&& control,
                                              const NcclCommOptions& options = {});

}  // namespace qat::dist
