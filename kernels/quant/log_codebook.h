#pragma once

#include <cstdint>

namespace qat::kernels {

// Of b-bit logarithmic codes (fake_quant.h): seed has 2^(b+1) - 1 values, packed has 2^b - 1.
enum class LogCodebook : std::uint8_t { kSeed, kPacked };

}  // namespace qat::kernels
