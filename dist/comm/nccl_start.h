// How the GPUs of a group are connected, in time or not at all. Internal to nccl_*.cc.
#pragma once

#include <nccl.h>

#include "dist/comm/communicator.h"

namespace qat::dist {

// Collective over `control`, of two ranks at least, each on the device that is current on the calling thread. Where
// NCCL cannot start on one rank, or not within so many seconds, all throw AgreedError(kCommunication); a thread may
// then be left inside NCCL for ever.
ncclComm_t connect_gpus(Communicator& control, double start_seconds);

}  // namespace qat::dist
