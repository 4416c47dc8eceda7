// GPT-2's parameters under the names that this program and Hugging Face's both use, and how they lie in files of
// either.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/checkpoint/h5_file.h"  // Shape
#include "src/model/gpt2_config.h"

namespace qat {

struct Gpt2Tensor {
  std::string name;         // "transformer.h.0.attn.c_attn.weight"
  Shape shape;              // in this program; linear weights are [out, in]
  bool transposed = false;  // lies as [in, out] in Hugging Face's files ("Conv1D")
  Shape stored_shape() const;
};

inline constexpr char kTransformerPrefix[] = "transformer.";
inline constexpr char kTokenEmbedding[] = "transformer.wte.weight";
inline constexpr char kLmHead[] = "lm_head.weight";

// The base network's, in order of use: every parameter but the adapters'. The head has its own if it is not tied.
std::vector<Gpt2Tensor> gpt2_tensors(const Gpt2Config& config);

// "transformer.h.0.attn.c_attn" of a name in quantized_layer_names(): what its parameters' names begin with.
std::string parameter_prefix(std::string_view layer);

// Whether `name`, with or without the prefix, is one of the constants that some files have beside a block's parameters
// (the causal mask): h.<n>.attn.bias, h.<n>.attn.masked_bias of a block that the model has.
bool is_mask_buffer(std::string_view name, const Gpt2Config& config);

// values: [rows, cols] -> [cols, rows].
std::vector<float> transposed(const std::vector<float>& values, std::int64_t rows, std::int64_t cols);

}  // namespace qat
