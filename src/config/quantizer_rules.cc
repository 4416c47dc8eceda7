#include "src/config/quantizer_rules.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/common/bit_width.h"
#include "kernels/common/error.h"
#include "src/bitmap/bitmap.h"

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
    activation_methods();
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

  // A method of the role, and the key that names it.
  struct Use {
    QuantizerKind method;
    std::string key;
  };
  static std::vector<Use> uses_of(const std::string& section, const QuantizerConfig& q) {
    std::vector<Use> uses = {{q.method, section + ".method"}};
    for (const WidthMethod& one : q.by_width) uses.push_back({one.method, section + ".by_width"});
    return uses;
  }
  static std::string key_of(const std::string& section, const QuantizerConfig& q, QuantizerKind method) {
    return section + (q.method == method ? ".method" : ".by_width");
  }

  void forms(const std::string& section, const QuantizerConfig& q) {
    const bool affine = q.uses(QuantizerKind::kMinMax) || q.uses(QuantizerKind::kEma) ||
                        (q.uses(QuantizerKind::kLlmQat) && section == "quant.activation");
    if (!q.symmetric && !affine)
      error(section + ".symmetric",
            fmt::format("must be true: the {} quantizer{} has no affine form", enum_name(q.method),
                        q.method == QuantizerKind::kLlmQat ? " of weights" : ""),
            {section + ".method"});
    if (q.uses(QuantizerKind::kLsq) && q.granularity != Granularity::kTensor)
      error(section + ".granularity", "must be \"tensor\" for method \"lsq\": it learns one step a layer and width",
            {key_of(section, q, QuantizerKind::kLsq)});
  }

  void weight() {
    const QuantizerConfig& q = q_.weight;
    if (!q.uses(QuantizerKind::kGroupwise)) return;
    if (q.granularity != Granularity::kChannel)
      error("quant.weight.granularity",
            "must be \"channel\" for method \"groupwise\": its groups are parts of a row (quant.weight.group_size)",
            {key_of("quant.weight", q, QuantizerKind::kGroupwise)});
    const std::int64_t size = q.group_size, inputs = c_.model.n_embd;
    if (size != 0 && inputs % size != 0)
      error("quant.weight.group_size", "must divide the inputs of every layer, hence model.n_embd; 0: a whole row",
            {"model.n_embd"});
  }

  void activation_methods() {
    for (std::size_t i = 0; i < q_.activation.by_width.size(); ++i)
      if (q_.activation.by_width[i].method == QuantizerKind::kGroupwise)
        found_.errors.push_back({"quant.activation.by_width",
                                 "must not be \"groupwise\", which is for weights",
                                 {},
                                 fmt::format("[{}].method", i),
                                 "\"groupwise\""});
    for (const Use& use : uses_of("quant.activation", q_.activation)) activation_range(use);
  }

  void activation_range(const Use& use) {
    const RangeSource range = q_.activation.range;
    const std::string method = enum_name(use.method);
    const auto must_be = [&](RangeSource source, const char* why) {
      if (range != source)
        error("quant.activation.range",
              fmt::format("must be \"{}\" for method \"{}\": {}", enum_name(source), method, why), {use.key});
    };
    if (use.method == QuantizerKind::kEma) return must_be(RangeSource::kRunning, "its ranges are running means");
    if (use.method == QuantizerKind::kLsq) return must_be(RangeSource::kLearned, "its step is trained");
    if (range == RangeSource::kLearned)
      error("quant.activation.range",
            fmt::format("\"learned\" needs quant.activation.method = \"lsq\": \"{}\" trains nothing", method),
            {use.key});
    if (range == RangeSource::kRunning && (use.method == QuantizerKind::kLog || use.method == QuantizerKind::kLlmQat))
      error("quant.activation.range",
            fmt::format("\"running\" needs method \"minmax\", \"cpt\" or \"ema\": \"{}\" has no running form", method),
            {use.key});
  }

  void activation_granularity() {
    const QuantizerConfig& q = q_.activation;
    if (q.granularity == Granularity::kFeature && q.range == RangeSource::kDynamic)
      error("quant.activation.granularity",
            "\"feature\" needs quant.activation.range = \"calibrated\" or \"running\": scales along the summed "
            "dimension must be known before the product",
            {"quant.activation.range"});
    if (q.granularity == Granularity::kToken && q.range != RangeSource::kDynamic && !q.uses(QuantizerKind::kLsq))
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
    if (q.uses(QuantizerKind::kLog))
      error(key, "must be \"minmax\" for method \"log\", whose ranges are of logarithms",
            {key_of("quant.activation", q, QuantizerKind::kLog)});
    if (q_.calibration_method == CalibrationMethod::kEntropy && (!q.symmetric || q.uses(QuantizerKind::kCpt)))
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
    if (too_narrow(q_.activation_bits))
      error("quant.activation_bits", llm_qat_rule(),
            {key_of("quant.activation", q_.activation, QuantizerKind::kLlmQat)});
    map_widths("quant.maps", q_.maps);
    map_widths("eval.maps", c_.eval.maps);
  }

  void map_widths(const std::string& path, const std::vector<std::string>& maps) {
    for (std::size_t i = 0; i < maps.size(); ++i) {
      try {
        for (const LinearBits& bits : linear_bits(parse_bitmap(maps[i]))) {
          weight_width(path, i, "", bits.weight);
          const bool configured = bits.activation == kBitsAsConfigured;
          if (!configured) activation_width(path, i, "", bits.activation);
          if (configured && q_.activation_bits == 0) activation_width(path, i, "", bits.weight);
        }
      } catch (const Error&) {
        continue;  // an error of its own
      }
    }
  }

  void weight_width(const std::string& path, std::size_t index, const std::string& member, int bits) {
    const QuantizerKind method = q_.weight.method_at(bits);
    if (bits == 1 && method != QuantizerKind::kLlmQat)
      element_error(path, index, member, bits,
                    "1 bit needs quant.weight.method = \"llm_qat\"; all other quantizers begin at 2",
                    {key_of("quant.weight", q_.weight, method)});
    if (bits > kMostGroupwiseBits && bits != BitWidth::kFull && method == QuantizerKind::kGroupwise)
      element_error(
          path, index, member, bits,
          fmt::format("must be at most {}, or 32, for quant.weight.method = \"groupwise\"", kMostGroupwiseBits),
          {key_of("quant.weight", q_.weight, method)});
  }

  // bits: 0: none of its own.
  bool too_narrow(int bits) const {
    return bits != 0 && bits < kFewestLlmQatActivationBits && q_.activation.method_at(bits) == QuantizerKind::kLlmQat;
  }

  void activation_width(const std::string& path, std::size_t index, const std::string& member, int bits) {
    if (too_narrow(bits))
      element_error(path, index, member, bits, llm_qat_rule(),
                    {key_of("quant.activation", q_.activation, QuantizerKind::kLlmQat), "quant.activation_bits"});
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
