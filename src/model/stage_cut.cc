#include "src/model/stage_cut.h"

#include "kernels/common/error.h"

namespace qat {

StageRange stage_range(const dist::StageCut& cut, int stage) {
  const auto s = static_cast<std::size_t>(stage);
  QAT_CHECK(stage >= 0 && s < cut.size(), "a stage of the cut");
  const bool last = s + 1 == cut.size();
  return {.first = cut[s], .last = last ? -1 : cut[s + 1], .embeds = stage == 0, .heads = last};
}

}  // namespace qat
