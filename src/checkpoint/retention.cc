#include "src/checkpoint/retention.h"

#include "kernels/common/error.h"

namespace qat {

std::vector<CheckpointInfo> select_expired(const std::vector<CheckpointInfo>& complete, int keep,
                                           const std::set<std::int64_t>& protected_steps) {
  QAT_CHECK(keep >= 0, "checkpoint.keep is not negative");
  std::vector<CheckpointInfo> expired;
  if (keep == 0) return expired;
  const auto count = static_cast<std::int64_t>(complete.size());
  for (std::int64_t i = 0; i < count - keep; ++i) {
    const CheckpointInfo& checkpoint = complete[static_cast<std::size_t>(i)];
    if (!protected_steps.contains(checkpoint.step)) expired.push_back(checkpoint);
  }
  return expired;
}

Retention apply_retention(const std::filesystem::path& root, int keep, const std::set<std::int64_t>& protected_steps) {
  Retention result;
  for (const CheckpointInfo& checkpoint : select_expired(list_checkpoints(root), keep, protected_steps)) {
    try {
      remove_checkpoint(checkpoint);
      result.removed.push_back(checkpoint);
    } catch (const Error& error) {
      result.failures.emplace_back(error.what());
    }
  }
  return result;
}

}  // namespace qat
