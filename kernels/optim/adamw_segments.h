// AdamW on many tensors of one flat buffer at once, each with constants of its own (decay, step counter).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/optim/adamw_flat.h"

namespace qat::kernels {

struct AdamWSegment {
  std::int64_t offset = 0;  // into p, g, m and v alike
  std::int64_t elems = 0;
  AdamWStep step;
};

// adamw_flat on each segment, with the same bits; on a GPU one launch for all. p, g, m, v: [n], fp32, same length;
// what lies in no segment is not touched. segments: in host memory, disjoint, by rising offset, any number. refused: as
// adamw_flat's.
void adamw_segments(const Exec& exec, std::span<float> p, std::span<const float> g, std::span<float> m,
                    std::span<float> v, std::span<const AdamWSegment> segments, std::int32_t* refused = nullptr);

}  // namespace qat::kernels
