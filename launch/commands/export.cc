#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "launch/asked_map.h"
#include "launch/command.h"
#include "launch/failure.h"
#include "launch/refuse.h"
#include "launch/stored_model.h"
#include "launch/world.h"
#include "src/eval/width_eval.h"
#include "src/export/export_model.h"
#include "src/quant/torch_view.h"
#include "src/train/on_root.h"

namespace qat::launch {
namespace {

enum class ExportPart : unsigned char { kMerged, kBase, kAdapter };

}  // namespace
}  // namespace qat::launch

namespace qat {
template <>
struct EnumNames<launch::ExportPart> {
  static constexpr std::array names{"merged", "base", "adapter"};
};
}  // namespace qat

namespace qat::launch {
namespace {

struct ExportArguments {
  std::string checkpoint;
  std::string output;
  std::string part = enum_name(ExportPart::kMerged);
  std::optional<int> bits;
  std::string bitmap, config_name;
  std::string format = enum_name(FloatFormat::kFloat32);
  std::string base_model;
  bool overwrite = false;
  bool strict = false;
};

// What is asked for, and what the part can have.
EvaluatedAt export_at(const ExportArguments& arguments, ExportPart part, const RunConfig& config,
                      const std::string& folder) {
  const bool shared = config.lora.slots == Slots::kShared;
  std::vector<int> adapted = quantized_weight_widths(config.quant);
  std::erase_if(adapted, [&](int bits) { return !has_adapters(config.lora, {bits}); });
  const bool any = shared ? config.lora.rank > 0 : !adapted.empty();
  if (part == ExportPart::kAdapter && !any)
    refuse(fmt::format("--part adapter: the checkpoint {} has no adapters (lora.rank is 0)", folder));
  if (!arguments.bitmap.empty() || !arguments.config_name.empty())
    return asked_map({arguments.bits, arguments.bitmap, arguments.config_name}, config);
  if (arguments.bits) {
    require_slots(config, *arguments.bits, "--bits");
    if (part == ExportPart::kAdapter && !shared &&
        std::find(adapted.begin(), adapted.end(), *arguments.bits) == adapted.end())
      refuse(fmt::format("--bits is {}: the model has no adapters at this width, but at {}", *arguments.bits,
                         fmt::join(adapted, ", ")));
    return {*arguments.bits};
  }
  if (part == ExportPart::kAdapter && !shared)
    refuse(fmt::format("--bits is missing: each of the widths ({}) has adapters of its own", fmt::join(adapted, ", ")));
  if (part == ExportPart::kMerged && any)
    refuse(
        fmt::format("--bits is missing: weights and adapters are merged at one of the widths ({}); 32 bits is the "
                    "base, which uses no adapter",
                    fmt::join(config.quant.widths, ", ")));
  return {BitWidth::kFull};
}

bool is_full(const EvaluatedAt& at) { return at.map.empty() && at.bits == BitWidth::kFull; }

// As the model has it when it is evaluated so.
PrecisionMap precision_of(const Gpt2Config& model, const QuantConfig& quant, const EvaluatedAt& at) {
  const std::vector<std::string> names = quantized_layer_names(model);
  if (!at.map.empty())
    return PrecisionMap::of_bitmap(names, parse_bitmap(at.map), model.bitmap_shape(), quant, BitWidth::kFull);
  return PrecisionMap::make(names, scheduled_precision(quant, at.bits), quant.overrides, quant.kv_bits);
}

// Of the weights of any layer.
std::vector<int> widths_of(const PrecisionMap& precision) {
  std::set<int> widths;
  for (std::int64_t layer = 0; layer < precision.size(); ++layer) widths.insert(precision.at(layer).weight.bits());
  return {widths.begin(), widths.end()};
}

ExportedPrecision exported_precision(const Gpt2Config& model, const EvaluatedAt& at, const PrecisionMap& precision) {
  ExportedPrecision out{.name = at.name(), .layers = {}, .kv_bits = {}};
  const std::vector<std::string> names = quantized_layer_names(model);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const LayerPrecision& layer = precision.at(static_cast<std::int64_t>(i));
    out.layers.push_back(
        {.layer = names[i], .weight_bits = layer.weight.bits(), .activation_bits = layer.activation.bits()});
  }
  for (std::int64_t block = 0; block < model.n_layer; ++block) out.kv_bits.push_back(precision.kv(block).bits());
  return out;
}

// The tensors of the checkpoint, and those that quantization makes of them.
class ExportedValues {
 public:
  // precision: none where everything is exported as it is stored.
  ExportedValues(const StoredModel& stored, ExportPart part, std::optional<PrecisionMap> precision)
      : reader_(stored.reader), part_(part), norms_(stored.config.model.norm_slots) {
    if (!precision) return;
    model_ = load_stored_model(stored);
    precision_ = *std::move(precision);
  }

  bool quantizes_inputs() const {
    for (std::int64_t layer = 0; layer < precision_.size(); ++layer)
      if (!precision_.at(layer).activation.is_full()) return true;
    return false;
  }

  void read(const Gpt2Tensor& tensor, std::int64_t first, std::span<float> out) {
    if (tensor.name != kept_name_) {
      kept_ = quantized(tensor);
      kept_name_ = tensor.name;
    }
    if (!kept_.defined())
      return reader_.read_elements("/model/" + stored_norm(tensor.name), tensor.shape, first, view(out));
    QAT_CHECK(kept_.sizes() == at::IntArrayRef(tensor.shape), tensor.name + " has the shape that is planned");
    const std::span<const float> values = const_span(kept_);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(first), out.size(), out.begin());
  }

 private:
  // Undefined where it is what the checkpoint has.
  at::Tensor quantized(const Gpt2Tensor& tensor) const {
    if (!model_) return {};
    const std::string& name = tensor.name;
    for (const QuantLinear& linear : model_->linears()) {
      const std::string& prefix = linear.spec().parameter_prefix;
      if (!name.starts_with(prefix + ".") || name.ends_with(".bias")) continue;
      const QuantLinear::Values values = linear.values(precision_.at(linear.spec().index));
      // A layer that uses no adapter at this width has one that adds nothing.
      if (name.ends_with(".lora_A.weight")) return values.lora_a.defined() ? values.lora_a : at::zeros(tensor.shape);
      if (name.ends_with(".lora_B.weight")) return values.lora_b.defined() ? values.lora_b : at::zeros(tensor.shape);
      return (part_ == ExportPart::kMerged ? QuantLinear::merged(values) : values.weight).contiguous();
    }
    return {};
  }

  // The parameter that a norm's is at these widths; another tensor's own name.
  std::string stored_norm(const std::string& name) const {
    if (!model_ || norms_ == Slots::kShared || name.find(".ln_") == std::string::npos) return name;
    int bits = precision_.nominal().weight.bits();  // ln_f; in a block the norm goes with the layer that reads it
    for (const QuantLinear& linear : model_->linears()) {
      const LinearSpec& spec = linear.spec();
      const std::string block =
          spec.parameter_prefix.substr(0, spec.parameter_prefix.find(".", sizeof("transformer.h.")));
      const bool reads = (spec.name.ends_with(".attn.c_attn") && name.starts_with(block + ".ln_1.")) ||
                         (spec.name.ends_with(".mlp.c_fc") && name.starts_with(block + ".ln_2."));
      if (reads) bits = precision_.at(spec.index).weight.bits();
    }
    if (bits == BitWidth::kFull) return name;
    const std::size_t last = name.rfind('.');
    return name.substr(0, last) + "." + width_slot(bits) + name.substr(last);
  }

  const CheckpointReader& reader_;
  ExportPart part_;
  Slots norms_;
  std::unique_ptr<Gpt2> model_;  // null: nothing is quantized
  PrecisionMap precision_;
  std::string kept_name_;
  at::Tensor kept_;
};

// A quantized head is another matrix than the table whose values it quantizes.
Gpt2Config exported_model(const Gpt2Config& config, const PrecisionMap& precision) {
  Gpt2Config out = config;
  if (config.quantize_lm_head && !precision.at(precision.size() - 1).is_full()) out.tie_lm_head = false;
  return out;
}

// Every quantized layer's adapter at its width. A layer that has none gets one like the others', which adds nothing.
std::vector<ExportedAdapter> adapters_at(const Gpt2Config& model, const RunConfig& config, const PrecisionMap& map) {
  const std::vector<std::string> names = quantized_layer_names(model);
  std::vector<ExportedAdapter> adapters;
  AdapterShape usual;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::int64_t in = names[i].ends_with(".mlp.c_proj") ? 4 * model.n_embd : model.n_embd;
    const int bits = map.at(static_cast<std::int64_t>(i)).weight.bits();
    const bool shared = config.lora.slots == Slots::kShared;
    AdapterShape shape;
    if (shared || bits != BitWidth::kFull) shape = adapter_shape(config.lora, shared ? 0 : bits, in);
    if (usual.rank == 0) usual = shape;
    adapters.push_back({.layer = names[i], .shape = shape});
  }
  for (ExportedAdapter& one : adapters)
    if (one.shape.rank == 0) one.shape = usual;
  return adapters;
}

void export_model(const ExportArguments& arguments) {
  const ExportPart part = *enum_value<ExportPart>(arguments.part);
  const FloatFormat format = *enum_value<FloatFormat>(arguments.format);
  const StoredModel stored = open_stored_model(arguments.checkpoint, arguments.strict);
  const RunConfig& config = stored.config;
  require_language_model(stored, "export");
  const EvaluatedAt at = export_at(arguments, part, config, stored.folder());
  const PrecisionMap precision = precision_of(config.model, config.quant, at);
  if (part == ExportPart::kAdapter && !is_full(at) && !has_adapters(config.lora, widths_of(precision)))
    refuse(fmt::format("--part adapter: no layer of {} has an adapter", describe(at)));
  const Gpt2Config model = exported_model(config.model, precision);
  ExportPlan plan = part == ExportPart::kAdapter
                        ? plan_adapter_export(model, adapters_at(model, config, precision), arguments.base_model)
                        : plan_model_export(model, format);
  if (!is_full(at)) plan.precision_json = precision_json(exported_precision(model, at, precision));
  ModelExport output(arguments.output, "--output", arguments.overwrite, format, std::move(plan));
  ExportedValues values(stored, part, is_full(at) ? std::nullopt : std::optional(precision));
  output.write(
      [&](const Gpt2Tensor& tensor, std::int64_t first, std::span<float> out) { values.read(tensor, first, out); });
  const char* const what =
      part == ExportPart::kAdapter ? "adapter"
      : part == ExportPart::kBase || is_full(at) || !has_adapters(config.lora, widths_of(precision))
          ? "base"
          : "base with adapter";
  fmt::print("{}, {}, as {}: {} bytes in {}\n  {}\n", what,
             is_full(at) ? std::string("not quantized") : "values of " + describe(at), arguments.format, output.bytes(),
             arguments.output, stored.folder());
  if (values.quantizes_inputs())
    fmt::print("  inputs of linear layers are quantized here at this width, and by nobody who loads this\n");
  if (part == ExportPart::kAdapter)
    fmt::print("  goes with the base of the same checkpoint: `qat_dist export --part base{}`\n",
               is_full(at)      ? ""
               : at.map.empty() ? fmt::format(" --bits {}", at.bits)
                                : fmt::format(" --bitmap '{}'", at.map));
}

}  // namespace

Run add_export(CLI::App& app) {
  auto arguments = std::make_shared<ExportArguments>();
  app.add_option("--checkpoint", arguments->checkpoint, "checkpoint folder, or a run folder: its newest checkpoint")
      ->required();
  app.add_option("-o,--output", arguments->output, "folder for the files; made if it is not there")->required();
  app.add_option("--part", arguments->part,
                 "merged: base and adapters as one matrix a layer, for transformers; base: without them, for "
                 "transformers; adapter: for peft")
      ->check(CLI::IsMember(enum_names<ExportPart>()))
      ->capture_default_str();
  app.add_option("--bits", arguments->bits,
                 "the values that linear weights, and adapters that are quantized (lora.quantize), have at this width; "
                 "32, the default of base and adapter: as stored");
  app.add_option("--bitmap", arguments->bitmap,
                 "the same for a width of each layer, e.g. 8,8,4,..., stripe8&4, 'attn=8,mlp=4'");
  app.add_option("--config-name", arguments->config_name,
                 "the same for widths of weights, activations, and keys and values: " + named_configurations());
  app.add_option("--dtype", arguments->format, "of the tensors in the file: float32, float16 or bfloat16")
      ->check(CLI::IsMember(enum_names<FloatFormat>()))
      ->capture_default_str();
  app.add_option("--base-model", arguments->base_model, "adapter: name or path of the base, for adapter_config.json");
  app.add_flag("--overwrite", arguments->overwrite, "replace files of the same names in the folder");
  app.add_flag("--strict", arguments->strict, "a damaged newest checkpoint of a run is an error: take no older one");
  app.footer(
      "Writes config.json and model.safetensors for transformers' GPT2LMHeadModel, or adapter_config.json and\n"
      "adapter_model.safetensors for peft; below 32 bits also model.precision.json or adapter_model.precision.json,\n"
      "which names every layer's widths. Other programs do not quantize the inputs of linear layers: at 32 bits they\n"
      "compute what this program does, below that the same weights without rounded activations.");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] {
      (void)world.use_threads(1);
      on_root(world.comm(), "exporting a model", [&] { export_model(*arguments); });
      return 0;
    });
  };
}

}  // namespace qat::launch
