#include "src/config/quantizer_rules.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/common/bit_width.h"

namespace qat {
namespace {

constexpr int kMostGroupwiseBits = 15;
constexpr int kFewestLlmQatActivationBits = 3;

class QuantizerChecker {
 public:
  QuantizerChecker(const RunConfig& config, Findings& found) : c_(config), q_(config.quant), found_(found) {}

  void run() {
    forms("quant.weight", q_.weight);
    forms("quant.activation", q_.activation);
    weight();
    activation_range();
    activation_granularity();
    calibration();
    widths();
  }

 private:
  void error(std::string path, std::string rule, std::vector<std::string> also = {}) {
    found_.errors.push_back({std::move(path), std::move(rule), std::move(also), "", ""});
  }
  void element_error(const std::string& path, std::size_t index, const std::string& member, int value, std::string rule,
                     std::vector<std::string> also) {
    found_.errors.push_back(
        {path, std::move(rule), std::move(also), fmt::format("[{}]{}", index, member), std::to_string(value)});
  }

  void forms(const std::string& section, const QuantizerConfig& q) {
    const bool affine = q.method == QuantizerKind::kMinMax || q.method == QuantizerKind::kEma ||
                        (q.method == QuantizerKind::kLlmQat && section == "quant.activation");
    if (!q.symmetric && !affine)
      error(section + ".symmetric",
            fmt::format("must be true: the {} quantizer{} has no affine form", enum_name(q.method),
                        q.method == QuantizerKind::kLlmQat ? " of weights" : ""),
            {section + ".method"});
    if (q.method == QuantizerKind::kLsq && q.granularity != Granularity::kTensor)
      error(section + ".granularity", "must be \"tensor\" for method \"lsq\": it learns one step a layer and width",
            {section + ".method"});
  }

  void weight() {
    if (q_.weight.method != QuantizerKind::kGroupwise) return;
    if (q_.weight.granularity != Granularity::kChannel)
      error("quant.weight.granularity",
            "must be \"channel\" for method \"groupwise\": its groups are parts of a row (quant.weight.group_size)",
            {"quant.weight.method"});
    const std::int64_t size = q_.weight.group_size, inputs = c_.model.n_embd;
    if (size != 0 && inputs % size != 0)
      error("quant.weight.group_size", "must divide the inputs of every layer, hence model.n_embd; 0: a whole row",
            {"model.n_embd"});
  }

  void activation_range() {
    const QuantizerConfig& q = q_.activation;
    const std::string method = enum_name(q.method);
    const auto must_be = [&](RangeSource source, const char* why) {
      if (q.range != source)
        error("quant.activation.range",
              fmt::format("must be \"{}\" for method \"{}\": {}", enum_name(source), method, why),
              {"quant.activation.method"});
    };
    if (q.method == QuantizerKind::kEma) return must_be(RangeSource::kRunning, "its ranges are running means");
    if (q.method == QuantizerKind::kLsq) return must_be(RangeSource::kLearned, "its step is trained");
    if (q.range == RangeSource::kLearned)
      error("quant.activation.range",
            fmt::format("\"learned\" needs quant.activation.method = \"lsq\": \"{}\" trains nothing", method),
            {"quant.activation.method"});
    if (q.range == RangeSource::kRunning && (q.method == QuantizerKind::kLog || q.method == QuantizerKind::kLlmQat))
      error("quant.activation.range",
            fmt::format("\"running\" needs method \"minmax\", \"cpt\" or \"ema\": \"{}\" has no running form", method),
            {"quant.activation.method"});
  }

  void activation_granularity() {
    const QuantizerConfig& q = q_.activation;
    if (q.granularity == Granularity::kFeature && q.range == RangeSource::kDynamic)
      error("quant.activation.granularity",
            "\"feature\" needs quant.activation.range = \"calibrated\" or \"running\": scales along the summed "
            "dimension must be known before the product",
            {"quant.activation.range"});
    if (q.granularity == Granularity::kToken && q.range != RangeSource::kDynamic && q.method != QuantizerKind::kLsq)
      error("quant.activation.granularity",
            "\"token\" needs quant.activation.range = \"dynamic\": no two batches have the same tokens",
            {"quant.activation.range"});
  }

  void calibration() {
    const QuantizerConfig& q = q_.activation;
    if (q_.calibration_method == CalibrationMethod::kMinMax || q.range != RangeSource::kCalibrated) return;
    const char* key = "quant.calibration_method";
    if (q.granularity == Granularity::kFeature)
      error(key, "must be \"minmax\" with a range a feature: single features have no histograms",
            {"quant.activation.granularity"});
    if (q.method == QuantizerKind::kLog)
      error(key, "must be \"minmax\" for method \"log\", whose ranges are of logarithms", {"quant.activation.method"});
    if (q_.calibration_method == CalibrationMethod::kEntropy && (!q.symmetric || q.method == QuantizerKind::kCpt))
      error(key, "\"entropy\" needs symmetric codes; \"percentile\" does not",
            {"quant.activation.method", "quant.activation.symmetric"});
  }

  void widths() {
    for (std::size_t i = 0; i < q_.widths.size(); ++i) {
      weight_width("quant.widths", i, "", q_.widths[i]);
      const bool scheduled = q_.activation_bits == 0 && q_.widths[i] != BitWidth::kFull;
      if (scheduled) activation_width("quant.widths", i, "", q_.widths[i]);
    }
    for (std::size_t i = 0; i < q_.overrides.size(); ++i) {
      const LayerOverride& rule = q_.overrides[i];
      if (rule.weight_bits != 0) weight_width("quant.overrides", i, ".weight_bits", rule.weight_bits);
      if (rule.activation_bits != 0) activation_width("quant.overrides", i, ".activation_bits", rule.activation_bits);
    }
    if (q_.activation.method == QuantizerKind::kLlmQat && q_.activation_bits != 0 &&
        q_.activation_bits < kFewestLlmQatActivationBits)
      error("quant.activation_bits", llm_qat_rule(), {"quant.activation.method"});
  }

  void weight_width(const std::string& path, std::size_t index, const std::string& member, int bits) {
    if (bits == 1 && q_.weight.method != QuantizerKind::kLlmQat)
      element_error(path, index, member, bits,
                    "1 bit needs quant.weight.method = \"llm_qat\"; all other quantizers begin at 2",
                    {"quant.weight.method"});
    if (bits > kMostGroupwiseBits && bits != BitWidth::kFull && q_.weight.method == QuantizerKind::kGroupwise)
      element_error(
          path, index, member, bits,
          fmt::format("must be at most {}, or 32, for quant.weight.method = \"groupwise\"", kMostGroupwiseBits),
          {"quant.weight.method"});
  }

  void activation_width(const std::string& path, std::size_t index, const std::string& member, int bits) {
    if (q_.activation.method == QuantizerKind::kLlmQat && bits < kFewestLlmQatActivationBits)
      element_error(path, index, member, bits, llm_qat_rule(), {"quant.activation.method", "quant.activation_bits"});
    else if (bits == 1)
      element_error(path, index, member, bits,
                    "1 bit is for weights alone: activations need quant.activation_bits of 2 or more",
                    {"quant.activation_bits"});
  }

  static std::string llm_qat_rule() {
    return fmt::format(
        "activations need at least {} bits for quant.activation.method = \"llm_qat\"; give them their own "
        "width by quant.activation_bits",
        kFewestLlmQatActivationBits);
  }

  const RunConfig& c_;
  const QuantConfig& q_;
  Findings& found_;
};

}  // namespace

void check_quantizers(const RunConfig& config, Findings& found) { QuantizerChecker(config, found).run(); }

}  // namespace qat
