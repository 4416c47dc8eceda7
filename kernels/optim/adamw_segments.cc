#include "kernels/optim/adamw_segments.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/optim/adamw_flat_cpu.h"
#include "kernels/optim/adamw_flat_cuda.h"

namespace qat::kernels {

void adamw_segments(const Exec& exec, std::span<float> p, std::span<const float> g, std::span<float> m,
                    std::span<float> v, std::span<const AdamWSegment> segments, std::int32_t* refused) {
  QAT_CHECK(g.size() == p.size() && m.size() == p.size() && v.size() == p.size(),
            "AdamW on " + std::to_string(p.size()) + " parameters got " + std::to_string(g.size()) + " gradients, " +
                std::to_string(m.size()) + " and " + std::to_string(v.size()) + " moments");
  std::int64_t end = 0;  // of the segments so far
  for (const AdamWSegment& segment : segments) {
    QAT_CHECK(segment.elems >= 0 && segment.offset >= end && segment.offset <= length(p) - segment.elems,
              "AdamW segment of " + std::to_string(segment.elems) + " elements at " + std::to_string(segment.offset) +
                  ": segments rise, do not overlap and end at " + std::to_string(p.size()));
    QAT_CHECK(segment.step.step >= 1, "AdamW counts steps from 1, not " + std::to_string(segment.step.step));
    end = segment.offset + segment.elems;
  }
  if (end == 0) return;
  const AdamWState state{p, g, m, v, refused};
  dispatch(
      exec, "adamw_segments", [&] { adamw_segments_cpu(exec, state, segments, best_cpu_isa()); },
      [&] { adamw_segments_cuda(exec, state, segments); });
}

}  // namespace qat::kernels
