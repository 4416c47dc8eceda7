// The JSON files that say what the tensors beside them are: config.json of a GPT-2 in Hugging Face's transformers, and
// adapter_config.json of a low-rank adapter in peft.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/export/float_format.h"
#include "src/model/gpt2_config.h"

namespace qat {

inline constexpr char kHfConfigName[] = "config.json";
inline constexpr char kAdapterConfigName[] = "adapter_config.json";

struct HfConfig {
  Gpt2Config model;                // sizes; tie_lm_head is what `tied` says, or true
  std::optional<bool> tied;        // tie_word_embeddings; none: not given
  std::vector<std::string> notes;  // lines for the log: keys that are not known here
};

// Throws Error(kData) that names `source` and the key, where the file is of another network than this program computes:
// another activation, other attention, other norms, quantized weights, sizes that do not go together. Dropout and what
// concerns no forward pass (tokens' names, generation) is left to whoever uses the model.
HfConfig parse_hf_config(std::string_view text, const std::string& source);

// For transformers' GPT2LMHeadModel.
std::string hf_config_json(const Gpt2Config& config, FloatFormat format);

// For peft's PeftModel over a GPT-2 of transformers. base_model: its name or path, for whoever loads both; may be
// empty.
struct ExportedAdapter {
  std::string layer;  // h.0.attn.c_attn, lm_head
  AdapterShape shape;
};
// adapters: at least one. Layers whose rank or alpha is not the first one's are named one by one.
std::string adapter_config_json(const Gpt2Config& config, const std::vector<ExportedAdapter>& adapters,
                                const std::string& base_model);

}  // namespace qat
