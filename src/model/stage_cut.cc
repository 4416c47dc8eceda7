#include "src/model/stage_cut.h"

#include "kernels/common/error.h"

namespace qat {

StageRange stage_range(const dist::StageCut& cut, int stage, int stages, std::int64_t blocks) {
  QAT_CHECK(0 <= stage && stage < stages && !cut.empty() && std::ssize(cut) % stages == 0,
            "a stage of the cut, and as many pieces on each");
  StageRange range{.embeds = stage == 0, .heads = stage == stages - 1};
  for (auto piece = static_cast<std::size_t>(stage); piece < cut.size(); piece += static_cast<std::size_t>(stages))
    range.chunks.push_back({.first = cut[piece], .last = piece + 1 < cut.size() ? cut[piece + 1] : blocks});
  return range;
}

}  // namespace qat
