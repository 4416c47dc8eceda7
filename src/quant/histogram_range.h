// Ranges that leave the rarest magnitudes out, from a histogram of |x|: whole numbers in, so that whoever counted
// together gets the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/bit_width.h"

namespace qat {

constexpr std::int64_t kHistogramBins = 2048;

// counts: [kHistogramBins] of magnitudes, bin i from top i / bins to top (i + 1) / bins; some value was counted.
// The upper end of the first bin with which at least `percent` of all values (above 0, at most 100) are counted.
float percentile_limit(std::span<const std::int64_t> counts, float top, double percent);

// The upper end of the bins within which symmetric codes of `width` lose least: of all ends from one bin a magnitude
// on, that of the smallest Kullback-Leibler divergence between what values become when the range ends there, those
// beyond it in the last bin, and the same counts shared out evenly over the bins of each of the 2^(b-1) magnitudes that
// hold any (Migacz, "8-bit inference with TensorRT", 2017). The smallest of equal ones; `top` where codes are not
// fewer than bins.
float entropy_limit(std::span<const std::int64_t> counts, float top, BitWidth width);

}  // namespace qat
