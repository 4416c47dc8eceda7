#include "src/quant/gemm_path.h"

namespace qat {
namespace {

constexpr int kMaxCodeBits = 8;

bool factors_out(const QuantizerConfig& config, BitWidth width) {
  return config.method == "minmax" && config.symmetric && config.granularity != "feature" &&
         width.bits() <= kMaxCodeBits;
}

}  // namespace

GemmPath choose_gemm_path(const QuantConfig& config, const LayerPrecision& precision) {
  if (precision.is_full()) return GemmPath::kPlain;
  const bool codes =
      factors_out(config.weight, precision.weight) && factors_out(config.activation, precision.activation);
  return codes ? GemmPath::kCodes : GemmPath::kFakeQuant;
}

std::string describe(GemmPath path) {
  switch (path) {
    case GemmPath::kPlain:
      return "unquantized fp32";
    case GemmPath::kCodes:
      return "int8 codes, int32 sums";
    case GemmPath::kFakeQuant:
      return "fake-quantized fp32 (scales do not factor out of an integer product)";
  }
  return "";
}

}  // namespace qat
