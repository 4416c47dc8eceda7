#include "src/model/token_embedding.h"

#include <torch/torch.h>

#include <optional>

#include "kernels/embedding/embedding.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

std::span<const std::int64_t> ids_of(const at::Tensor& tokens) {
  return {tokens.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(tokens.numel())};
}

class TokenEmbedding : public torch::autograd::Function<TokenEmbedding> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& token_table, const Variable& position_table,
                          const at::Tensor& tokens, at::ScalarType dtype, const std::optional<at::Tensor>& add_to) {
    at::Tensor x = at::empty({tokens.size(0), tokens.size(1), token_table.size(1)}, token_table.options().dtype(dtype));
    kernels::embed(exec_for(x), ids_of(tokens), tokens.size(1), const_matrix(token_table), const_matrix(position_table),
                   float_matrix(x));
    ctx->save_for_backward({tokens});
    ctx->saved_data["add_to"] = add_to;  // not a saved variable: it is written to before backward
    ctx->saved_data["vocabulary"] = token_table.size(0);
    ctx->saved_data["positions"] = position_table.size(0);
    return x;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const at::Tensor tokens = ctx->get_saved_variables()[0];
    const at::Tensor dx = grads[0].contiguous();
    const auto table = [&](const char* rows, std::size_t input) {
      if (!ctx->needs_input_grad(input)) return at::Tensor();
      return at::zeros({ctx->saved_data[rows].toInt(), dx.size(2)}, dx.options().dtype(at::kFloat));
    };
    const auto add_to = ctx->saved_data["add_to"].toOptional<at::Tensor>();
    at::Tensor d_token = add_to ? *add_to : table("vocabulary", 0), d_position = table("positions", 1);
    const auto view = [](const at::Tensor& t) { return t.defined() ? matrix(t) : Matrix<float>{}; };
    kernels::embed_backward(exec_for(dx), const_float_matrix(dx), ids_of(tokens), tokens.size(1), view(d_token),
                            view(d_position));
    return {add_to ? at::Tensor() : d_token, d_position, {}, {}, {}};
  }
};

}  // namespace

at::Tensor token_embedding(const at::Tensor& tokens, const at::Tensor& token_table, const at::Tensor& position_table,
                           at::ScalarType dtype, const at::Tensor& add_to) {
  return TokenEmbedding::apply(token_table, position_table, tokens.contiguous(), dtype,
                               add_to.defined() ? std::optional<at::Tensor>(add_to) : std::nullopt);
}

}  // namespace qat
