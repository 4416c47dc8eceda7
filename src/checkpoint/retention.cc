#include "src/checkpoint/retention.h"

#include "kernels/common/error.h"

namespace qat {

std::vector<CheckpointInfo> select_expired(const std::vector<CheckpointInfo>& complete, int keep,
                                           std::int64_t protected_step) {
  QAT_CHECK(keep >= 0, "checkpoint.keep is not negative");
  std::vector<CheckpointInfo> expired;
  if (keep == 0) return expired;
  const auto count = static_cast<std::int64_t>(complete.size());
  for (std::int64_t i = 0; i < count - keep; ++i) {
    const CheckpointInfo& checkpoint = complete[static_cast<std::size_t>(i)];
    if (checkpoint.step != protected_step) expired.push_back(checkpoint);
  }
  return expired;
}

std::vector<CheckpointInfo> apply_retention(const std::filesystem::path& root, int keep, std::int64_t protected_step) {
  std::vector<CheckpointInfo> expired = select_expired(list_checkpoints(root), keep, protected_step);
  for (const CheckpointInfo& checkpoint : expired) remove_checkpoint(checkpoint);
  return expired;
}

}  // namespace qat
