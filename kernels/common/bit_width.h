#pragma once

#include <cassert>
#include <cstdint>
#include <string>

#include "kernels/common/error.h"

namespace qat {

// A width in bits: 1..18 quantized, 32 unquantized. One bit is a sign and a magnitude, which only the llm_qat quantizer
// of weights has: a symmetric 1-bit code has no levels.
class BitWidth {
 public:
  static constexpr int kMin = 1;
  static constexpr int kMinUsual = 2;  // of all but those weights
  static constexpr int kMax = 18;
  static constexpr int kFull = 32;

  explicit BitWidth(int bits) : bits_(static_cast<std::int8_t>(bits)) {
    if (!is_valid(bits)) throw Error(ErrorKind::kConfig, "bit width " + std::to_string(bits) + " is not 1..18 or 32");
  }
  static constexpr bool is_valid(int bits) noexcept { return bits == kFull || (bits >= kMin && bits <= kMax); }
  static constexpr bool is_usual(int bits) noexcept { return is_valid(bits) && bits >= kMinUsual; }
  static BitWidth full() { return BitWidth(kFull); }

  constexpr int bits() const noexcept { return bits_; }
  constexpr bool is_full() const noexcept { return bits_ == kFull; }
  // Symmetric codes are -q_max..q_max; the code -2^(b-1) is never used. Undefined at full precision.
  constexpr int q_max() const noexcept {
    assert(!is_full());
    return (1 << (bits_ - 1)) - 1;
  }
  // Affine codes are 0..level_max. Undefined at full precision.
  constexpr int level_max() const noexcept {
    assert(!is_full());
    return (1 << bits_) - 1;
  }
  friend constexpr auto operator<=>(BitWidth, BitWidth) = default;

 private:
  std::int8_t bits_;
};

}  // namespace qat
