#include "src/train/model_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string_view>

#include "src/quant/gemm_path.h"
#include "src/train/configured_maps.h"

namespace qat {
namespace {

double forward_total(const std::vector<LayerWork>& layers) {
  double sum = 0.0;
  for (const LayerWork& work : layers) sum += layer_bitops(work).forward;
  return sum;
}

void include(BitsRange& range, BitWidth width) {
  range.least = std::min(range.least, width.bits());
  range.most = std::max(range.most, width.bits());
}

MapBits map_bits(std::string name, const PrecisionMap& precision) {
  const LayerPrecision& first = precision.at(0);
  const auto from = [](BitWidth width) { return BitsRange{width.bits(), width.bits()}; };
  MapBits bits{std::move(name), from(first.weight), from(first.activation), from(precision.kv(0))};
  for (std::int64_t layer = 0; layer < precision.size(); ++layer) {
    include(bits.weights, precision.at(layer).weight);
    include(bits.activations, precision.at(layer).activation);
  }
  for (std::int64_t block = 0; block < precision.size() / kLinearsPerBlock; ++block)
    include(bits.kv, precision.kv(block));
  return bits;
}

StoredCodes storage_of(const QuantizerConfig& quantizer, int bits) {
  const CodeStorage storage = quant_method(quantizer, BitWidth(bits)).storage();
  return {.numbers_per_scale = storage.numbers_per_group,
          .extra_bits = storage.extra_bits,
          .group_size = storage.group_size};
}

std::string product_path(const Gpt2& model, const QuantConfig& quant, const LayerPrecision& precision) {
  const Device device = model.mode().is_cuda() ? Device::kCuda : Device::kCpu;
  return describe(choose_gemm_path(quant, precision, device), floats_of(model.mode()));
}

// How many blocks run fused, on a GPU.
std::string fusion(const Gpt2& model, const PrecisionMap& map) {
  if (!model.mode().is_cuda()) return "";
  const std::int64_t fused = model.fused_blocks({.precision = &map, .training = true});
  if (fused == model.config().n_layer) return "; blocks are fused";
  if (fused == 0) return "; operator by operator, which is slower";
  return fmt::format("; {} of {} blocks are fused, the others are slower", fused, model.config().n_layer);
}

// "map stripe8&4: 24 linear layers at W8 A8, 24 at W4 A4: int8 codes".
std::string map_line(const Gpt2& model, const QuantConfig& quant, const ConfiguredMap& map) {
  std::map<RangeWidths, std::int64_t, std::greater<>> layers;
  std::set<std::string> paths;
  for (std::int64_t layer = 0; layer < map.precision.size(); ++layer) {
    ++layers[range_widths(map.precision.at(layer))];
    paths.insert(product_path(model, quant, map.precision.at(layer)));
  }
  std::string text;
  for (const auto& [widths, count] : layers)
    text += fmt::format("{}{}{} at W{} A{}", text.empty() ? "" : ", ", count, text.empty() ? " linear layers" : "",
                        widths.weight, widths.activation);
  return fmt::format("map {}: {}: {}{}", map.name, text, fmt::join(paths, ", "), fusion(model, map.precision));
}

// The width of the linear layer that a norm, "transformer.h.3.ln_2.w4.bias", stands before.
int width_behind(const std::string& norm, const PrecisionMap& precision) {
  constexpr std::string_view kBlocks = "transformer.h.";
  if (!norm.starts_with(kBlocks)) return precision.nominal().weight.bits();  // ln_f
  const std::int64_t block = std::stoll(norm.substr(kBlocks.size()));
  const bool second = norm.find(".ln_2.") != std::string::npos;
  return precision.at(kLinearsPerBlock * block + (second ? 2 : 0)).weight.bits();
}

// Whether the model at `precision` has the tensor, whose adapters have that role already if a layer uses them.
bool is_deployed(const Gpt2& model, const TensorSize& tensor, int id, const PrecisionMap& precision) {
  if (is_trained_range(tensor.name)) return false;  // counted as the scales that they are
  const int group = model.parameters().info(id).group_index;
  if (group < 0) return true;
  const GroupKey& key = model.parameters().groups()[static_cast<std::size_t>(group)].key;
  if (key.kind != GroupKind::kWidth || tensor.role == TensorSize::Role::kAdapter) return true;
  return tensor.name.find(".lora_") == std::string::npos && width_behind(tensor.name, precision) == key.bits;
}

}  // namespace

std::string floats_of(const ComputeMode& mode) {
  if (mode.dtype == at::kBFloat16) return "bf16";
  return mode.tf32 ? "tf32" : "fp32";
}

std::vector<std::string> product_paths(const Gpt2& model, const QuantConfig& quant,
                                       const PrecisionScheduleConfig& schedule) {
  std::vector<std::string> lines;
  for (const ConfiguredMap& map : configured_maps(model.config(), quant, schedule.most_gradient_bits()))
    lines.push_back(map_line(model, quant, map));
  if (!lines.empty()) return lines;
  std::vector<std::pair<std::string, std::vector<int>>> by_path;  // in order of first use
  for (const int bits : quant.widths) {
    const LayerPrecision base = scheduled_precision(quant, bits, schedule.most_gradient_bits());
    const PrecisionMap map = PrecisionMap::make(model.linear_names(), base, quant.overrides, quant.kv_bits);
    const std::string path = product_path(model, quant, base) + fusion(model, map);
    auto found = std::find_if(by_path.begin(), by_path.end(), [&](const auto& one) { return one.first == path; });
    if (found == by_path.end()) found = by_path.insert(by_path.end(), {path, {}});
    found->second.push_back(bits);
  }
  for (const auto& [path, widths] : by_path)
    lines.push_back(fmt::format("linear layers at {} bits: {}", fmt::join(widths, ", "), path));
  return lines;
}

namespace {

void add_linear(const Gpt2& model, const QuantLinear& linear, const PrecisionMap& precision, double tokens,
                std::vector<LayerWork>& work) {
  const LinearSpec& spec = linear.spec();
  const LayerPrecision& layer = precision.at(spec.index);
  const bool unrounded = spec.name == "lm_head" && model.head_on_codes(precision);
  const OperandBits bits{layer.weight.bits(), layer.activation.bits(),
                         unrounded ? BitWidth::kFull : layer.gradient.bits()};
  work.push_back({.macs = tokens * static_cast<double>(model.macs_per_token(spec.index)),
                  .bits = bits,
                  .weight_gradient = !model.config().freeze_base});
  const AdapterSlot* slot = linear.adapter(bits.weight);
  if (slot == nullptr || layer.is_full()) return;
  const int lora_bits = slot->shape.quantize ? bits.weight : BitWidth::kFull;
  const int input_bits = slot->reads_raw() ? BitWidth::kFull : bits.activation;
  work.push_back({.macs = tokens * static_cast<double>(slot->shape.rank * spec.in_features),
                  .bits = {lora_bits, input_bits, bits.gradient},
                  .at_full = false});
  // The second factor multiplies an unquantized intermediate, forward and backward.
  work.push_back({.macs = tokens * static_cast<double>(slot->shape.rank * spec.out_features),
                  .bits = {lora_bits, BitWidth::kFull, BitWidth::kFull},
                  .at_full = false});
}

void add_blocks(const Gpt2& model, const PrecisionMap& precision, double tokens, std::int64_t sequence_length,
                std::vector<LayerWork>& work) {
  const Gpt2Config& config = model.config();
  for (const QuantLinear& linear : model.linears())
    if (linear.spec().name != "lm_head") add_linear(model, linear, precision, tokens, work);
  // Scores and weighted sum: 2 products of T/2 * d a token and layer.
  work.push_back({.macs = tokens * static_cast<double>(config.n_layer * config.n_embd * (sequence_length + 1))});
}

void add_head(const Gpt2& model, const PrecisionMap& precision, double tokens, std::vector<LayerWork>& work) {
  const Gpt2Config& config = model.config();
  for (const QuantLinear& linear : model.linears())
    if (linear.spec().name == "lm_head") add_linear(model, linear, precision, tokens, work);
  if (config.answers_questions())
    work.push_back({.macs = tokens * static_cast<double>(2 * config.n_embd)});
  else if (!config.quantize_lm_head)
    work.push_back({.macs = tokens * static_cast<double>(config.n_embd * config.vocab_size),
                    .weight_gradient = !config.freeze_base});
}

void drop_backward(std::vector<LayerWork>& work) {
  for (LayerWork& one : work) one.input_gradient = one.weight_gradient = false;
}

}  // namespace

std::vector<LayerWork> layer_work(const Gpt2& model, const PrecisionMap& precision, std::int64_t tokens,
                                  std::int64_t sequence_length) {
  std::vector<LayerWork> work;
  add_blocks(model, precision, static_cast<double>(tokens), sequence_length, work);
  add_head(model, precision, static_cast<double>(tokens), work);
  return work;
}

std::vector<LayerWork> pass_work(const Gpt2& model, const dist::UpdatePlan& update, std::size_t pass,
                                 std::span<const PrecisionMap> maps, std::int64_t tokens,
                                 std::int64_t sequence_length) {
  const dist::PassPlan& plan = update.passes.at(pass);
  if (!plan.trains) {
    std::vector<LayerWork> work;
    add_blocks(model, maps[plan.map], static_cast<double>(tokens), sequence_length, work);
    drop_backward(work);
    return work;
  }
  std::vector<LayerWork> work = layer_work(model, maps[plan.map], tokens, sequence_length);
  if (plan.loss.distillation == 0.0) return work;
  std::vector<LayerWork> heads;
  for (const std::uint32_t teacher : plan.teachers)
    add_head(model, maps[update.passes.at(teacher).map], static_cast<double>(tokens), heads);
  drop_backward(heads);
  work.insert(work.end(), heads.begin(), heads.end());
  return work;
}

double bitops_at_full(const Gpt2& model, std::int64_t tokens, std::int64_t sequence_length) {
  const PrecisionMap full = PrecisionMap::uniform(model.config().linears(), BitWidth::kFull, BitWidth::kFull);
  return step_bitops(layer_work(model, full, tokens, sequence_length)).total();
}

SizeReport model_size(const Gpt2& model, const QuantConfig& quant, const PrecisionMap& precision) {
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
      weight.storage = storage_of(quant.weight, bits);
    }
    const AdapterSlot* slot = linear.adapter(bits);
    if (slot == nullptr) continue;
    for (const int id : {slot->a, slot->b}) {
      tensors[static_cast<std::size_t>(id)].role = TensorSize::Role::kAdapter;
      tensors[static_cast<std::size_t>(id)].bits = slot->shape.quantize ? bits : BitWidth::kFull;
      tensors[static_cast<std::size_t>(id)].storage = storage_of(adapter_quantizer(quant), bits);
    }
  }
  // What single widths have for themselves is part of the model where a layer has that width.
  std::vector<TensorSize> deployed;
  for (std::size_t id = 0; id < tensors.size(); ++id)
    if (is_deployed(model, tensors[id], static_cast<int>(id), precision)) deployed.push_back(std::move(tensors[id]));
  return size_report(deployed, {.scale_per_row = quant.weight.granularity == Granularity::kChannel});
}

std::string report_title(const std::vector<WidthScore>& scores) {
  const bool answers = !scores.empty() && scores.front().score.answers.has_value();
  return answers ? "Answers to held-out questions by bit width" : "Held-out perplexity by bit width";
}

std::vector<WidthResult> width_results(const Gpt2& model, const QuantConfig& quant,
                                       const std::vector<WidthScore>& scores, std::int64_t sequence_length) {
  const PrecisionMap full = evaluation_precision(model, quant, EvaluatedAt(BitWidth::kFull));
  const double full_bitops = forward_total(layer_work(model, full, 1, sequence_length));
  std::vector<WidthResult> results;
  for (const WidthScore& one : scores) {
    const PrecisionMap precision = evaluation_precision(model, quant, one.at);
    std::optional<AnswerFigures> answers;
    if (const auto& found = one.score.answers)
      answers = {.exact_match = found->exact_match, .f1 = found->f1, .questions = std::ssize(found->answers)};
    results.push_back(
        {.weight_bits = precision.nominal().weight.bits(),
         .activation_bits = precision.nominal().activation.bits(),
         .kv_bits = precision.kv(0).bits(),
         .map = one.at.map.empty() ? std::nullopt : std::optional(map_bits(one.at.name(), precision)),
         .nll = one.score.nll_sum,
         .tokens_scored = one.score.tokens,
         .answers = answers,
         .size = model_size(model, quant, precision),
         .forward_bitops_ratio = forward_total(layer_work(model, precision, 1, sequence_length)) / full_bitops});
  }
  return results;
}

}  // namespace qat
