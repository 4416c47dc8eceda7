// Which GPU each rank uses: one of its own, decided before NCCL is asked for anything.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"

namespace qat::dist {

struct RankDevices {
  std::string host;
  std::vector<std::string> uuids;  // of the GPUs that the rank sees, by ordinal
};

// Element r: the ordinal, among the GPUs that rank r sees, of the one it uses: the first that no lower rank has. So
// where all ranks of a node see all its GPUs, the i-th of them takes GPU i; where a scheduler shows each rank one GPU
// of its own, that is ordinal 0 everywhere. Throws AgreedError(kConfig), since all ranks decide over the same lists,
// when a rank gets none.
std::vector<int> choose_devices(std::span<const RankDevices> ranks);

// What this process sees; CUDA_VISIBLE_DEVICES is CUDA's own business.
RankDevices visible_devices();

// Collective over `control`, which must take host memory. This rank's ordinal, for set_cuda_device().
int assign_local_devices(Communicator& control, const RankDevices& mine);
int assign_local_devices(Communicator& control);

}  // namespace qat::dist
