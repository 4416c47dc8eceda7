// Compiled in place of nccl_*.cc where there is no NCCL.
#include "dist/comm/agree.h"
#include "dist/comm/nccl_comm.h"
#include "dist/comm/nccl_versions.h"

namespace qat::dist {

NcclVersions nccl_versions() noexcept { return {}; }

std::unique_ptr<Communicator> make_nccl_world(std::unique_ptr<Communicator>&& /*control*/,
                                              const NcclCommOptions& /*options*/) {
  throw AgreedError(ErrorKind::kCommunication,
                    "this program is built without NCCL and cannot use GPUs: build it with -DQAT_WITH_NCCL=ON, or set "
                    "compute.device to \"cpu\"");
}

}  // namespace qat::dist
