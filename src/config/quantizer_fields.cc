#include "src/config/field_rules.h"

namespace qat::rules {
namespace {

using R = RunConfig;
using Q = QuantConfig;

void add_quantizer(Fields& f, const std::string& section, QuantizerConfig Q::*role, std::vector<std::string> methods,
                   std::vector<std::string> granularities, const std::string& granularity_meaning) {
  using C = QuantizerConfig;
  const bool weights = section == "quant.weight";
  f.push_back(key(section + ".method", at(&R::quant, role, &C::method), one_of(std::move(methods)), "",
                  std::string("minmax: even steps; log: even steps of the magnitude's logarithm; llm_qat: LLM-QAT's") +
                      (weights ? ", the only one with 1 bit" : ", of 3 bits and more") +
                      "; cpt: even steps from the smallest value up (arXiv:2101.09868); ema: all 2^bits signed codes, "
                      "over running ranges; lsq: one learned step a layer and width (arXiv:1902.08153)" +
                      (weights ? "; groupwise: learned scales and zero points of groups (arXiv:2407.11062)" : ""),
                  {"quantizer_type", "quantizer"}));
  f.push_back(key(section + ".symmetric", at(&R::quant, role, &C::symmetric), any(), "",
                  "minmax, llm_qat and ema: true: codes around 0; false: affine codes 0..2^bits-1"));
  f.push_back(key(section + ".log_codebook", at(&R::quant, role, &C::log_codebook), one_of({"packed", "seed"}), "",
                  "log only: packed: 2^bits-1 values; seed: 2^(bits+1)-1 values, which take bits+1 bits"));
  f.push_back(key(section + ".granularity", at(&R::quant, role, &C::granularity), one_of(std::move(granularities)), "",
                  granularity_meaning, {"per_channel", "per_channel_quantization"}));
  f.push_back(key(section + ".by_width", at(&R::quant, role, &C::by_width), maybe_empty(), "",
                  "methods of single widths, in place of the one above", {"quantizer_per_bit"}));
}

}  // namespace

void add_quantizers(Fields& f) {
  add_quantizer(f, "quant.weight", &Q::weight, enum_names<QuantizerKind>(), {"tensor", "channel"},
                "one scale per tensor or per output channel");
  f.push_back(key(
      "quant.weight.group_size", at(&R::quant, &Q::weight, &QuantizerConfig::group_size), between(0, 1 << 20), "inputs",
      "groupwise only: neighbours in a row that share a scale and a zero point; divides the inputs of every "
      "layer; 0: a whole row",
      {"group_size", "q_group_size"}));
  add_quantizer(f, "quant.activation", &Q::activation, {"minmax", "log", "llm_qat", "cpt", "ema", "lsq"},
                {"tensor", "token", "feature"},
                "one scale per tensor, per token (dynamic ranges only) or per input feature (calibrated and running "
                "ranges only)");
  // Weights are there to be looked at, so that theirs follow from the method.
  f.push_back(key("quant.activation.range", at(&R::quant, &Q::activation, &QuantizerConfig::range), any(), "",
                  "dynamic: ranges from the values at hand; calibrated: from the calibration batches; running: means "
                  "over training's steps (evaluation uses them; with method ema, training too); learned: trained, for "
                  "method lsq"));
  f.push_back(key("quant.calibration_batches", at(&R::quant, &Q::calibration_batches), between(1, kMostOfAny),
                  "micro-batches", "batches that calibrated ranges are taken from, and what learned ones begin with",
                  {"warm_up_batches", "calibration_steps", "num_calibration_steps"}));
  f.push_back(
      key("quant.calibration_method", at(&R::quant, &Q::calibration_method), any(), "",
          "calibrated ranges: minmax: reach all that calibration saw; percentile: calibration_percentile of it; "
          "entropy: where symmetric codes lose least (Kullback-Leibler divergence)",
          {"calibration_type"}));
  f.push_back(key("quant.calibration_percentile", at(&R::quant, &Q::calibration_percentile), between(1, 100), "percent",
                  "percentile only: share of the magnitudes that a calibrated range reaches", {"percentile"}));
  f.push_back(key("quant.running_momentum", at(&R::quant, &Q::running_momentum), fraction(), "",
                  "running ranges: a step leaves so much of the range, the rest is what it saw",
                  {"ema_momentum", "ema_decay"}));
  constexpr double kMostSteps = 1e9;
  f.push_back(
      key("quant.recalibrate_every", at(&R::quant, &Q::recalibrate_every), between(0, kMostSteps), "steps",
          "calibrated ranges grow old at every multiple of so many steps: training takes a width's anew when it "
          "next uses it; 0: never"));
}

}  // namespace qat::rules
