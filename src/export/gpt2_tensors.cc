#include "src/export/gpt2_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/common/error.h"

namespace qat {

Shape Gpt2Tensor::stored_shape() const { return transposed ? Shape{shape[1], shape[0]} : shape; }

std::vector<Gpt2Tensor> gpt2_tensors(const Gpt2Config& config) {
  const std::int64_t d = config.n_embd;
  std::vector<Gpt2Tensor> tensors = {{kTokenEmbedding, {config.vocab_size, d}},
                                     {"transformer.wpe.weight", {config.n_positions, d}}};
  const auto add_norm = [&](const std::string& name) {
    tensors.push_back({name + ".weight", {d}});
    tensors.push_back({name + ".bias", {d}});
  };
  const auto add_linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    tensors.push_back({name + ".weight", {out, in}, /*transposed=*/true});
    tensors.push_back({name + ".bias", {out}});
  };
  for (std::int64_t layer = 0; layer < config.n_layer; ++layer) {
    const std::string block = fmt::format("transformer.h.{}.", layer);
    add_norm(block + "ln_1");
    add_linear(block + "attn.c_attn", d, 3 * d);
    add_linear(block + "attn.c_proj", d, d);
    add_norm(block + "ln_2");
    add_linear(block + "mlp.c_fc", d, 4 * d);
    add_linear(block + "mlp.c_proj", 4 * d, d);
  }
  add_norm("transformer.ln_f");
  if (!config.tie_lm_head) tensors.push_back({kLmHead, {config.vocab_size, d}});
  return tensors;
}

std::string parameter_prefix(std::string_view layer) {
  return layer == "lm_head" ? std::string(layer) : kTransformerPrefix + std::string(layer);
}

bool is_mask_buffer(std::string_view name, const Gpt2Config& config) {
  if (name.starts_with(kTransformerPrefix)) name.remove_prefix(sizeof(kTransformerPrefix) - 1);
  if (!name.starts_with("h.")) return false;
  name.remove_prefix(2);
  const std::size_t dot = name.find('.');
  const std::string_view number = name.substr(0, dot);
  const bool plain = !number.empty() && number.size() < 10 && number.find_first_not_of("0123456789") == number.npos;
  if (dot == name.npos || !plain || std::stoll(std::string(number)) >= config.n_layer) return false;
  const std::string_view rest = name.substr(dot + 1);
  return rest == "attn.bias" || rest == "attn.masked_bias";
}

std::vector<float> transposed(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  QAT_CHECK(static_cast<std::int64_t>(values.size()) == rows * cols, "a matrix has rows times cols values");
  constexpr std::int64_t kTile = 32;  // both sides of a tile fit a CPU's first cache
  std::vector<float> out(values.size());
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile)
      for (std::int64_t r = r0; r < std::min(rows, r0 + kTile); ++r)
        for (std::int64_t c = c0; c < std::min(cols, c0 + kTile); ++c)
          out[static_cast<std::size_t>(c * rows + r)] = values[static_cast<std::size_t>(r * cols + c)];
  return out;
}

}  // namespace qat
