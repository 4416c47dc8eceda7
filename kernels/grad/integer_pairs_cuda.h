// The CUDA half of integer_pairs.h.
#pragma once

#include "kernels/grad/integer_pairs.h"

namespace qat::kernels {

// What is added to the upper half of each word whose lower half is negative: -1 packs, 1 unpacks.
void shift_pairs_cuda(const Exec& exec, std::span<std::int32_t> words, int step);

}  // namespace qat::kernels
