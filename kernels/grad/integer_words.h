// Integers of 8 or 16 bits that are added several at a time, by whoever adds 32-bit integers and no shorter ones (NCCL,
// of which only 8 bits are an exception).
//
// Four numbers of 8 bits are the word a + 2^8 b + 2^16 c + 2^24 d, two of 16 bits a + 2^16 b, a the first in memory.
// Sums of words are the words of the numbers' sums, as long as each of these sums has 8 or 16 bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

// data: numbers of `bits` as they lie in memory, lowest byte first; then their words. And back. bits: 8 or 16.
void pack_words(const Exec& exec, std::span<std::int32_t> data, int bits);
void unpack_words(const Exec& exec, std::span<std::int32_t> data, int bits);

}  // namespace qat::kernels
