// Which arithmetic a linear layer's product takes: one function of widths, quantizers and granularity.
#pragma once

#include <string>

#include "src/quant/precision_map.h"
#include "src/quant/quant_config.h"

namespace qat {

enum class GemmPath : unsigned char {
  kPlain,      // nothing is quantized
  kCodes,      // int8 codes, int32 sums, scales applied once: exact
  kFakeQuant,  // quantized values as floats: widths above 8, affine, log, per-feature scales, one side unquantized
};

// Codes need scales that factor out of the sum: both sides min-max symmetric with at most 8 bits, and no scale that
// varies along the summed dimension.
GemmPath choose_gemm_path(const QuantConfig& config, const LayerPrecision& precision);

// "codes (int8 x int8 -> int32)" and the like, with the reason when it is not the fast one: for log lines.
std::string describe(GemmPath path);

}  // namespace qat
