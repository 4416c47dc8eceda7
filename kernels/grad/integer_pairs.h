// 16-bit integers that are added two at a time, by whoever adds 32-bit integers and no shorter ones (NCCL).
//
// A pair (a, b), a in the lower half, is the word a + 65536 b. Sums of words are the words of the pairs' sums, as long
// as each sum of a's and of b's has 16 bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

// words: pairs of 16-bit integers as they lie in memory (little-endian); then their words. And back.
void pack_pairs(const Exec& exec, std::span<std::int32_t> words);
void unpack_pairs(const Exec& exec, std::span<std::int32_t> words);

}  // namespace qat::kernels
