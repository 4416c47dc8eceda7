#include "src/quant/gemm_path.h"

#include "src/quant/quant_method.h"

namespace qat {
namespace {

constexpr int kMaxCodeBits = 8;       // what int8 holds
constexpr int kMaxWideCodeBits = 11;  // what fp16's significand holds

bool factors_out(const QuantizerConfig& config, BitWidth width, int most_bits) {
  return quant_method(config, width).factors_out() && config.granularity != Granularity::kFeature &&
         width.bits() <= most_bits;
}

}  // namespace

GemmPath choose_gemm_path(const QuantConfig& config, const LayerPrecision& precision, Device device) {
  if (precision.is_full()) return GemmPath::kPlain;
  const auto factor_out = [&](int most_bits) {
    return factors_out(config.weight, precision.weight, most_bits) &&
           factors_out(config.activation, precision.activation, most_bits);
  };
  if (factor_out(kMaxCodeBits)) return GemmPath::kCodes;
  return device == Device::kCuda && factor_out(kMaxWideCodeBits) ? GemmPath::kWideCodes : GemmPath::kFakeQuant;
}

bool scales_by_row(const QuantConfig& config) {
  return config.weight.range == RangeSource::kDynamic && config.weight.granularity == Granularity::kChannel &&
         config.activation.range == RangeSource::kDynamic && config.activation.granularity == Granularity::kToken;
}

std::string describe(GemmPath path, const std::string& floats) {
  switch (path) {
    case GemmPath::kPlain:
      return "unquantized " + floats;
    case GemmPath::kCodes:
      return "int8 codes, int32 sums";
    case GemmPath::kWideCodes:
      return "fp16 codes, fp32 sums (wider than 8 bits)";
    case GemmPath::kFakeQuant:
      return "quantized values in " + floats +
             " (no codes: a quantizer without integer products, scales that do not factor out, or more bits than a "
             "code "
             "holds)";
  }
  return "";
}

}  // namespace qat
