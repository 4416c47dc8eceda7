#include "src/memory/wire_memory.h"

#include <algorithm>

#include "dist/grad/flat_layout.h"
#include "dist/grad/value_gather.h"
#include "src/train/wire_of.h"

namespace qat {

std::vector<MemoryConsumer> wire_memory(const CommConfig& comm, std::int64_t trained, std::int64_t largest, bool coded,
                                        int ranks) {
  if (ranks == 1) return {};
  std::vector<MemoryConsumer> all;
  if (coded && comm.weights == WeightsName::kCodes) {
    const std::int64_t batch = std::min(trained, dist::ValueGather::batch_elems(ranks));
    all.push_back({"messages of weights", batch + batch / ranks});
  }
  const dist::GradWire wire = wire_of(comm);
  const bool levels = comm.ranks_per_node > 0 && comm.ranks_per_node < ranks;
  if (wire.is_exact() && !levels) return all;
  const std::int64_t bucket = std::min(trained, std::max(largest, dist::kBucketElems));
  const kernels::WireShape shape{.format = wire.format, .elems = bucket, .block = wire.block};
  const bool codes = kernels::has_codes(wire.format);
  // Messages as they are sent and as they are received; of codes, scales as well.
  std::int64_t bytes = 2 * shape.part_bytes();
  if (codes) bytes += (wire.sum == dist::WireSum::kTwoPhase ? 2 : 1) * shape.blocks() * 4;
  if (levels) bytes += 2 * 4 * bucket / comm.ranks_per_node;
  const bool keeps = !wire.is_exact() && comm.error_feedback;
  all.push_back({"error feedback", keeps ? 4 * (trained + trained / ranks) : 0});
  all.push_back({"messages of gradients", bytes});
  return all;
}

}  // namespace qat
