// Which arithmetic a linear layer's product takes: one function of widths, quantizers and granularity.
#pragma once

#include <string>

#include "kernels/common/view.h"
#include "src/quant/precision_map.h"
#include "src/quant/quant_config.h"

namespace qat {

enum class GemmPath : unsigned char {
  kPlain,      // nothing is quantized
  kCodes,      // int8 codes, int32 sums, scales applied once: exact
  kWideCodes,  // 9..11 bits on a GPU: fp16 codes, which bf16 and tf32 values would not hold, fp32 sums
  kFakeQuant,  // quantized values as floats: wider, other than min-max symmetric, per-feature scales, one side
               // unquantized
};

// Codes need scales that factor out of the sum: both sides min-max symmetric with at most 8 (11) bits, and no scale
// that varies along the summed dimension. On a CPU, whose floats are fp32, quantized values hold the wider codes.
GemmPath choose_gemm_path(const QuantConfig& config, const LayerPrecision& precision, Device device);

// One scale per output channel and per token, from the values at hand: with it a product on codes can be fused, or go
// through some tokens without the others.
bool scales_by_row(const QuantConfig& config);

// "int8 codes, int32 sums" and the like, with the reason when it is not the fast one: for log lines.
// floats: what the device computes in otherwise ("bf16").
std::string describe(GemmPath path, const std::string& floats);

}  // namespace qat
