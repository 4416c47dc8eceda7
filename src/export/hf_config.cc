#include "src/export/hf_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

constexpr double kNormEps = 1e-5;               // of this program's layer norms (kernels/norm)
constexpr std::int64_t kLargestSize = 1 << 20;  // products of sizes stay far from overflow
constexpr std::int64_t kMostBlocks = 1 << 12;

// Of no consequence for what the network computes, as this program runs it.
constexpr std::array<std::string_view, 49> kIgnored = {"_name_or_path",
                                                       "_commit_hash",
                                                       "_attn_implementation",
                                                       "_attn_implementation_autoset",
                                                       "architectures",
                                                       "attn_pdrop",
                                                       "attention_dropout",
                                                       "bos_token_id",
                                                       "chunk_size_feed_forward",
                                                       "custom_pipelines",
                                                       "dtype",
                                                       "embd_pdrop",
                                                       "eos_token_id",
                                                       "finetuning_task",
                                                       "forced_bos_token_id",
                                                       "forced_eos_token_id",
                                                       "gradient_checkpointing",
                                                       "id2label",
                                                       "initializer_range",
                                                       "is_decoder",
                                                       "is_encoder_decoder",
                                                       "label2id",
                                                       "max_length",
                                                       "model_max_length",
                                                       "n_ctx",
                                                       "num_return_sequences",
                                                       "output_attentions",
                                                       "output_hidden_states",
                                                       "output_past",
                                                       "pad_token_id",
                                                       "prefix",
                                                       "problem_type",
                                                       "reorder_and_upcast_attn",
                                                       "resid_pdrop",
                                                       "return_dict",
                                                       "sep_token_id",
                                                       "summary_activation",
                                                       "summary_first_dropout",
                                                       "summary_proj_to_labels",
                                                       "summary_type",
                                                       "summary_use_proj",
                                                       "task_specific_params",
                                                       "tokenizer_class",
                                                       "torch_dtype",
                                                       "torchscript",
                                                       "transformers_version",
                                                       "unk_token_id",
                                                       "use_cache",
                                                       "use_bfloat16"};

class HfConfigReader {
 public:
  HfConfigReader(const Value& root, const std::string& source) : root_(root), source_(source) {}

  HfConfig read() {
    if (const Value* type = find("model_type"); type == nullptr || type->as_string() != "gpt2")
      fail("model_type", type, "\"gpt2\": this program knows no other network");
    HfConfig out;
    out.model.n_layer = size("n_layer", kMostBlocks);
    out.model.n_head = size("n_head");
    out.model.n_embd = size("n_embd");
    out.model.n_positions = size(find("n_positions") != nullptr ? "n_positions" : "n_ctx");
    out.model.vocab_size = size("vocab_size");
    if (out.model.n_embd % out.model.n_head != 0)
      fail("n_embd", find("n_embd"), fmt::format("a multiple of n_head, {}", out.model.n_head));
    require_same_network(out.model);
    if (const Value* tied = find("tie_word_embeddings")) out.tied = tied->as_bool();
    out.model.tie_lm_head = out.tied.value_or(true);
    for (const Value::Member& member : root_.as_object())
      if (!known_.contains(member.key) && std::find(kIgnored.begin(), kIgnored.end(), member.key) == kIgnored.end())
        out.notes.push_back(fmt::format("{}: the key {} is not known here and has no effect", source_,
                                        to_json(Value(member.key.substr(0, 80)))));
    return out;
  }

 private:
  [[noreturn]] void fail(std::string_view key, const Value* found, const std::string& expected) const {
    std::string shown = found == nullptr ? "nothing" : to_json(*found);
    if (shown.size() > 80) shown = shown.substr(0, 80) + "...";
    throw Error(ErrorKind::kData, fmt::format("{}: {} is {}, expected {}", source_, key, shown, expected));
  }

  const Value* find(std::string_view key) {
    known_.insert(std::string(key));
    const Value* found = root_.find(key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }

  std::int64_t size(std::string_view key, std::int64_t largest = kLargestSize) {
    const Value* found = find(key);
    if (found == nullptr || !found->is_int() || found->as_int() < 1 || found->as_int() > largest)
      fail(key, found, fmt::format("an integer from 1 to {}", largest));
    return found->as_int();
  }

  // A switch that must be as this program computes; where the file does not say, transformers' default is that.
  void require_switch(std::string_view key, bool wanted, std::string_view why) {
    const Value* found = find(key);
    if (found != nullptr && found->as_bool() != wanted) fail(key, found, fmt::format("{}: {}", wanted, why));
  }

  void require_same_network(const Gpt2Config& model) {
    const Value* activation = find("activation_function");
    if (activation != nullptr && activation->as_string() != "gelu_new" &&
        activation->as_string() != "gelu_pytorch_tanh")
      fail("activation_function", activation, "\"gelu_new\", GELU by tanh (gelu_pytorch_tanh is the same)");
    const Value* eps = find("layer_norm_epsilon");
    if (eps != nullptr && std::abs(eps->as_double() - kNormEps) > 1e-12)
      fail("layer_norm_epsilon", eps, fmt::format("{}, which this program's norms have", kNormEps));
    const Value* inner = find("n_inner");
    if (inner != nullptr && (!inner->is_int() || inner->as_int() != 4 * model.n_embd))
      fail("n_inner", inner, fmt::format("null or 4 n_embd = {}", 4 * model.n_embd));
    require_switch("scale_attn_weights", true, "attention scores are divided by the square root of a head's width");
    require_switch("scale_attn_by_inverse_layer_idx", false, "attention is scaled alike in all blocks");
    require_switch("add_cross_attention", false, "there is no encoder to attend to");
    for (const char* key : {"quantization_config", "pruned_heads"}) {
      const Value* found = find(key);
      const bool empty = found == nullptr || (found->is_object() && found->as_object().empty());
      if (!empty) fail(key, found, "none: this program takes plain GPT-2 weights");
    }
  }

  const Value& root_;
  const std::string& source_;
  std::set<std::string> known_;
};

// A whole number as one, as configurations usually have it.
Value number(double value) {
  return value == std::trunc(value) && std::abs(value) < 1e9 ? Value(static_cast<std::int64_t>(value)) : Value(value);
}

}  // namespace

HfConfig parse_hf_config(std::string_view text, const std::string& source) {
  const Value root = parse_json(text, source, ErrorKind::kData);
  (void)root.as_object();
  return HfConfigReader(root, source).read();
}

std::string hf_config_json(const Gpt2Config& config, FloatFormat format) {
  const Value root = Value::object({{"architectures", Value::array(std::vector<std::string>{"GPT2LMHeadModel"})},
                                    {"model_type", "gpt2"},
                                    {"activation_function", "gelu_new"},
                                    {"n_layer", config.n_layer},
                                    {"n_head", config.n_head},
                                    {"n_embd", config.n_embd},
                                    {"n_inner", Value()},
                                    {"n_positions", config.n_positions},
                                    {"n_ctx", config.n_positions},
                                    {"vocab_size", config.vocab_size},
                                    {"layer_norm_epsilon", kNormEps},
                                    {"scale_attn_weights", true},
                                    {"scale_attn_by_inverse_layer_idx", false},
                                    {"reorder_and_upcast_attn", false},
                                    {"tie_word_embeddings", config.tie_lm_head},
                                    {"embd_pdrop", config.embd_dropout},
                                    {"attn_pdrop", config.attn_dropout},
                                    {"resid_pdrop", config.resid_dropout},
                                    // The last id ends a document, in this program's tokenizers as in GPT-2's.
                                    {"bos_token_id", config.vocab_size - 1},
                                    {"eos_token_id", config.vocab_size - 1},
                                    {"torch_dtype", enum_name(format)}});
  return to_json(root, 2) + "\n";
}

std::string adapter_config_json(const Gpt2Config& config, const std::vector<ExportedAdapter>& adapters,
                                const std::string& base_model) {
  const AdapterShape& usual = adapters.front().shape;
  Value ranks = Value::object(), alphas = Value::object();
  for (const ExportedAdapter& one : adapters) {
    // peft takes them for a layer whose name ends so.
    if (one.shape.rank != usual.rank) ranks.set(one.layer, one.shape.rank);
    if (one.shape.alpha != usual.alpha) alphas.set(one.layer, number(one.shape.alpha));
  }
  // peft takes a layer whose name ends so; between them these are all quantized layers of a block, and nothing else.
  std::vector<std::string> targets;
  for (const std::string_view linear : kBlockLinears) targets.emplace_back(linear);
  if (config.quantize_lm_head) targets.emplace_back("lm_head");
  const Value root = Value::object({{"peft_type", "LORA"},
                                    {"task_type", "CAUSAL_LM"},
                                    {"base_model_name_or_path", base_model.empty() ? Value() : Value(base_model)},
                                    {"r", usual.rank},
                                    {"lora_alpha", number(usual.alpha)},
                                    {"rank_pattern", std::move(ranks)},
                                    {"alpha_pattern", std::move(alphas)},
                                    {"lora_dropout", 0.0},
                                    {"fan_in_fan_out", true},  // GPT-2's weights in transformers are [in, out]
                                    {"use_rslora", false},     // the scaling is lora_alpha / r
                                    {"bias", "none"},
                                    {"target_modules", Value::array(targets)},
                                    {"modules_to_save", Value()},
                                    {"init_lora_weights", true},
                                    {"inference_mode", true}});
  return to_json(root, 2) + "\n";
}

}  // namespace qat
