// The CUDA half of integer_words.h.
#pragma once

#include "kernels/common/philox.h"
#include "kernels/grad/integer_words.h"

namespace qat::kernels {

// The word of the numbers in four bytes of memory; numbers, words of memory and words are all taken modulo 2^32.
QAT_HOST_DEVICE constexpr std::uint32_t lowest_number(std::uint32_t word, int bits) noexcept {
  const auto unused = static_cast<unsigned>(32 - bits);
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(word << unused) >> unused);  // sign-extended
}
QAT_HOST_DEVICE constexpr std::uint32_t packed_word(std::uint32_t memory, int bits) noexcept {
  std::uint32_t word = 0;
  for (int at = 0; at < 32; at += bits)
    word += lowest_number(memory >> static_cast<unsigned>(at), bits) << static_cast<unsigned>(at);
  return word;
}
QAT_HOST_DEVICE constexpr std::uint32_t unpacked_word(std::uint32_t word, int bits) noexcept {
  std::uint32_t memory = 0;
  for (int at = 0; at < 32; at += bits) {
    const std::uint32_t number = lowest_number(word, bits);
    memory |= (number & ((1U << static_cast<unsigned>(bits)) - 1U)) << static_cast<unsigned>(at);
    word = static_cast<std::uint32_t>(static_cast<std::int32_t>(word - number) >> bits);
  }
  return memory;
}

void pack_words_cuda(const Exec& exec, std::span<std::int32_t> data, int bits);
void unpack_words_cuda(const Exec& exec, std::span<std::int32_t> data, int bits);

}  // namespace qat::kernels
