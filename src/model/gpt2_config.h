// Sizes and switches of the network. JSON section "model"; "lora" is lora_config.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/named_enum.h"
#include "src/bitmap/bitmap.h"
#include "src/model/lora_config.h"

namespace qat {

enum class ModelInit : unsigned char { kRandom, kCheckpoint };
template <>
struct EnumNames<ModelInit> {
  static constexpr std::array names{"random", "checkpoint"};
};

// What the model's head answers: which token comes next, or where in a text the answer to a question stands.
enum class ModelTask : unsigned char { kLanguageModel, kSpanQa };
template <>
struct EnumNames<ModelTask> {
  static constexpr std::array names{"language_model", "span_qa"};
};

// The quantized linear layers of a block, in order of use.
constexpr std::array kBlockLinears{"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"};
static_assert(kBlockLinears.size() == kLinearsPerBlock);

struct Gpt2Config {
  std::string preset;               // fills the five sizes below unless they are given: see gpt2_preset()
  std::int64_t n_layer = 12;        // transformer blocks
  std::int64_t n_head = 12;         // attention heads; divides n_embd
  std::int64_t n_embd = 768;        // width of the residual stream
  std::int64_t n_positions = 1024;  // longest sequence, in tokens
  std::int64_t vocab_size = 50257;  // token ids are 0..vocab_size-1
  ModelTask task = ModelTask::kLanguageModel;
  ModelInit init = ModelInit::kRandom;  // random: normal(0, 0.02); checkpoint: parameters from init_from
  std::string init_from;                // a checkpoint's folder, a run's, or one of transformers
  bool freeze_base = false;             // train only LoRA and layer norms
  bool tie_lm_head = true;              // the output projection is the token embedding
  bool quantize_lm_head = false;        // the output projection is a quantized linear with its own adapter
  Slots norm_slots = Slots::kShared;    // layer norms: the same at every width, or each width its own
  double embd_dropout = 0.0;            // after the embeddings
  double attn_dropout = 0.0;            // on attention probabilities
  double resid_dropout = 0.0;           // on what attention and MLP add to the residual stream
  double head_dropout = 0.0;            // span_qa: before the head

  bool answers_questions() const { return task == ModelTask::kSpanQa; }

  // Number of quantized linear layers: four a block, and the head if it is quantized.
  std::int64_t linears() const { return bitmap_shape().linears(); }
  // What maps of layers' widths are laid over.
  BitmapShape bitmap_shape() const {
    return {.blocks = n_layer, .n_embd = n_embd, .head_outputs = quantize_lm_head ? vocab_size : 0};
  }
};

// Names of all quantized linear layers, by index in PrecisionMap: h.0.attn.c_attn, ..., and lm_head if it is quantized.
inline std::vector<std::string> quantized_layer_names(const Gpt2Config& config) {
  std::vector<std::string> names;
  for (std::int64_t layer = 0; layer < config.n_layer; ++layer)
    for (const char* linear : kBlockLinears) names.push_back("h." + std::to_string(layer) + "." + linear);
  if (config.quantize_lm_head) names.emplace_back("lm_head");
  return names;
}

// What a width's own parameters have in their names: h.0.attn.c_attn.lora_A.w4.weight, h.0.ln_1.w4.bias.
inline std::string width_slot(int bits) { return std::string("w").append(std::to_string(bits)); }
// The name of the same parameter where widths share it: ...lora_A.weight, h.0.ln_1.bias. Nothing for other names.
std::optional<std::string> name_without_width(const std::string& name);

// The beginning of the name of a trained range's member, before its widths: <layer>.weight_step.
inline std::string trained_range_name(const std::string& layer, const std::string& role, const std::string& member) {
  return layer + "." + role + "_" + member + ".";
}
// Whether a parameter is a member of a trained range.
bool is_trained_range(const std::string& name);

// GPT-2's published sizes (gpt2, gpt2-medium, gpt2-large, gpt2-xl) and small ones for CPUs (nano, micro, mini).
// Fills the sizes of `config`; returns false if the name is unknown.
bool apply_gpt2_preset(const std::string& name, Gpt2Config& config);
// The known names, comma-separated, for messages.
std::string gpt2_preset_names();

}  // namespace qat
