#include "src/train/model_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "src/quant/gemm_path.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

double forward_total(const std::vector<LayerWork>& layers) {
  double sum = 0.0;
  for (const LayerWork& work : layers) sum += layer_bitops(work).forward;
  return sum;
}

std::string product_path(const Gpt2& model, const QuantConfig& quant, const LayerPrecision& base) {
  const bool cuda = model.mode().is_cuda();
  const std::string path =
      describe(choose_gemm_path(quant, base, cuda ? Device::kCuda : Device::kCpu), floats_of(model.mode()));
  if (!cuda) return path;
  const PrecisionMap map = PrecisionMap::make(model.linear_names(), base, quant.overrides);
  const std::int64_t fused = model.fused_blocks({.precision = &map, .training = true});
  if (fused == model.config().n_layer) return path + "; blocks are fused";
  if (fused == 0) return path + "; operator by operator, which is slower";
  return path + fmt::format("; {} of {} blocks are fused, the others are slower", fused, model.config().n_layer);
}

}  // namespace

std::string floats_of(const ComputeMode& mode) {
  if (mode.dtype == at::kBFloat16) return "bf16";
  return mode.tf32 ? "tf32" : "fp32";
}

std::vector<std::string> product_paths(const Gpt2& model, const QuantConfig& quant,
                                       const PrecisionScheduleConfig& schedule) {
  std::vector<std::pair<std::string, std::vector<int>>> by_path;  // in order of first use
  for (const int bits : quant.widths) {
    const std::string path =
        product_path(model, quant, scheduled_precision(quant, bits, schedule.most_gradient_bits()));
    auto found = std::find_if(by_path.begin(), by_path.end(), [&](const auto& one) { return one.first == path; });
    if (found == by_path.end()) found = by_path.insert(by_path.end(), {path, {}});
    found->second.push_back(bits);
  }
  std::vector<std::string> lines;
  lines.reserve(by_path.size());
  for (const auto& [path, widths] : by_path)
    lines.push_back(fmt::format("linear layers at {} bits: {}", fmt::join(widths, ", "), path));
  return lines;
}

std::string width_memory(const Gpt2& model, int ranks) {
  std::int64_t widths = 0, all = 0, largest = 0;
  for (const FlatGroup& group : model.parameters().groups()) {
    if (group.key.kind != GroupKind::kWidth) continue;
    const std::int64_t bytes = group.layout.elems() * static_cast<std::int64_t>(sizeof(float));
    ++widths, all += bytes, largest = std::max(largest, bytes);
  }
  if (widths == 0) return "";
  const std::string what = fmt::format("{} widths have parameters of their own, {}", widths, byte_size(all));
  if (ranks == 1) return what + ", and AdamW's moments of twice that";
  return fmt::format("{}: each rank keeps {} of them, twice that of moments, and {} while a pass uses a width", what,
                     byte_size(all / ranks), byte_size(largest));
}

std::vector<LayerWork> layer_work(const Gpt2& model, const LoraConfig& lora, const PrecisionMap& precision,
                                  std::int64_t tokens, std::int64_t sequence_length) {
  const Gpt2Config& config = model.config();
  const auto count = static_cast<double>(tokens);
  const bool train_base = !config.freeze_base;
  std::vector<LayerWork> work;
  for (const QuantLinear& linear : model.linears()) {
    const LinearSpec& spec = linear.spec();
    const LayerPrecision& layer = precision.at(spec.index);
    const bool unrounded = spec.name == "lm_head" && model.head_on_codes(precision);
    const OperandBits bits{layer.weight.bits(), layer.activation.bits(),
                           unrounded ? BitWidth::kFull : layer.gradient.bits()};
    work.push_back({.macs = count * static_cast<double>(model.macs_per_token(spec.index)),
                    .bits = bits,
                    .weight_gradient = train_base});
    const AdapterSlot* slot = linear.adapter(bits.weight);
    if (slot == nullptr || layer.is_full()) continue;
    const int lora_bits = slot->quantize ? bits.weight : BitWidth::kFull;
    work.push_back({.macs = count * static_cast<double>(slot->rank * spec.in_features),
                    .bits = {lora_bits, bits.activation, bits.gradient},
                    .at_full = false});
    // The second factor multiplies an unquantized intermediate, forward and backward.
    work.push_back({.macs = count * static_cast<double>(slot->rank * spec.out_features),
                    .bits = {lora_bits, BitWidth::kFull, BitWidth::kFull},
                    .at_full = false});
  }
  const double attention = count * static_cast<double>(config.n_layer * config.n_embd * (sequence_length + 1));
  work.push_back({.macs = attention});  // scores and weighted sum: 2 products of T/2 * d a token and layer
  if (config.answers_questions())
    work.push_back({.macs = count * static_cast<double>(config.n_embd * 2)});
  else if (!config.quantize_lm_head)
    work.push_back(
        {.macs = count * static_cast<double>(config.n_embd * config.vocab_size), .weight_gradient = train_base});
  return work;
}

double bitops_at_full(const Gpt2& model, const LoraConfig& lora, std::int64_t tokens, std::int64_t sequence_length) {
  const PrecisionMap full = PrecisionMap::uniform(model.config().linears(), BitWidth::kFull, BitWidth::kFull);
  return step_bitops(layer_work(model, lora, full, tokens, sequence_length)).total();
}

SizeReport model_size(const Gpt2& model, const LoraConfig& lora, const QuantConfig& quant,
                      const PrecisionMap& precision) {
  std::vector<TensorSize> tensors;
  for (const ParameterInfo& info : model.parameters().infos()) {
    const std::int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1;
    tensors.push_back({.name = info.name, .rows = rows, .cols = info.elems / rows});
  }
  for (const QuantLinear& linear : model.linears()) {
    const LinearSpec& spec = linear.spec();
    const int bits = precision.at(spec.index).weight.bits();
    TensorSize& weight = tensors[static_cast<std::size_t>(spec.weight)];
    // A tied head is the token embedding too, which stays unquantized.
    if (!(model.config().tie_lm_head && spec.name == "lm_head")) {
      weight.role = TensorSize::Role::kLinear;
      weight.bits = bits;
    }
    const AdapterSlot* slot = linear.adapter(bits);
    if (slot == nullptr) continue;
    for (const int id : {slot->a, slot->b}) {
      tensors[static_cast<std::size_t>(id)].role = TensorSize::Role::kAdapter;
      tensors[static_cast<std::size_t>(id)].bits = slot->quantize ? bits : BitWidth::kFull;
    }
  }
  // What other widths have for themselves is no part of the model at this one.
  const std::vector<bool> used = model.groups_used(precision);
  std::vector<TensorSize> deployed;
  for (std::size_t id = 0; id < tensors.size(); ++id) {
    const int group = model.parameters().info(static_cast<int>(id)).group_index;
    if (group < 0 || used[static_cast<std::size_t>(group)]) deployed.push_back(std::move(tensors[id]));
  }
  const CodeStorage storage = quant_method(quant.weight).storage();
  return size_report(deployed, {.scale_per_row = quant.weight.granularity == Granularity::kChannel,
                                .numbers_per_scale = storage.numbers_per_group,
                                .extra_code_bits = storage.extra_bits});
}

std::string report_title(const std::vector<WidthScore>& scores) {
  const bool answers = !scores.empty() && scores.front().score.answers.has_value();
  return answers ? "Answers to held-out questions by bit width" : "Held-out perplexity by bit width";
}

std::vector<WidthResult> width_results(const Gpt2& model, const LoraConfig& lora, const QuantConfig& quant,
                                       const std::vector<WidthScore>& scores, std::int64_t sequence_length) {
  const PrecisionMap full = evaluation_precision(model, quant, BitWidth::kFull);
  const double full_bitops = forward_total(layer_work(model, lora, full, 1, sequence_length));
  std::vector<WidthResult> results;
  for (const WidthScore& one : scores) {
    const PrecisionMap precision = evaluation_precision(model, quant, one.bits);
    std::optional<AnswerFigures> answers;
    if (const auto& found = one.score.answers)
      answers = {.exact_match = found->exact_match, .f1 = found->f1, .questions = std::ssize(found->answers)};
    results.push_back(
        {.weight_bits = one.bits,
         .activation_bits = scheduled_precision(quant, one.bits).activation.bits(),
         .nll = one.score.nll_sum,
         .tokens_scored = one.score.tokens,
         .answers = answers,
         .size = model_size(model, lora, quant, precision),
         .forward_bitops_ratio = forward_total(layer_work(model, lora, precision, 1, sequence_length)) / full_bitops});
  }
  return results;
}

}  // namespace qat
