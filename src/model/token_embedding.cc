#include "src/model/token_embedding.h"

#include <torch/torch.h>

#include "kernels/embedding/embedding.h"
#include "src/quant/kept_for_backward.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

std::span<const std::int64_t> ids_of(const at::Tensor& tokens) {
  return {tokens.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(tokens.numel())};
}

struct Table {
  std::int64_t rows = 0;
  int id = -1;
};

struct Kept {
  at::Tensor tokens;
  Table words, positions;
  GradientSink* sink = nullptr;
};

// Where a table's gradient is added up: its other use's, in which case autograd has it already, or zeros.
struct TableGradient {
  at::Tensor sum, for_autograd;
};

TableGradient begin_gradient(const Table& table, const at::Tensor& dx, bool wanted, GradientSink* sink) {
  if (!wanted) return {};
  if (sink != nullptr)
    if (const at::Tensor earlier = sink->opened(table.id); earlier.defined()) return {earlier, {}};
  const at::Tensor place = sink != nullptr ? sink->open(table.id) : at::Tensor();
  const at::Tensor sum =
      place.defined() ? place.zero_() : at::zeros({table.rows, dx.size(2)}, dx.options().dtype(at::kFloat));
  return {sum, sum};
}

class TokenEmbedding : public torch::autograd::Function<TokenEmbedding> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& token_table, const Variable& position_table, Kept kept,
                          at::ScalarType dtype) {
    const at::Tensor& tokens = kept.tokens;
    at::Tensor x = at::empty({tokens.size(0), tokens.size(1), token_table.size(1)}, token_table.options().dtype(dtype));
    kernels::embed(exec_for(x), ids_of(tokens), tokens.size(1), const_matrix(token_table), const_matrix(position_table),
                   float_matrix(x));
    keep(ctx, std::move(kept));
    return x;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const Kept kept = take<Kept>(ctx);
    const at::Tensor dx = grads[0].contiguous();
    const TableGradient words = begin_gradient(kept.words, dx, ctx->needs_input_grad(0), kept.sink),
                        positions = begin_gradient(kept.positions, dx, ctx->needs_input_grad(1), kept.sink);
    const auto view = [](const at::Tensor& t) { return t.defined() ? matrix(t) : Matrix<float>{}; };
    kernels::embed_backward(exec_for(dx), const_float_matrix(dx), ids_of(kept.tokens), kept.tokens.size(1),
                            view(words.sum), view(positions.sum));
    if (kept.sink != nullptr)
      for (const Table* table : {&kept.words, &kept.positions})
        if (kept.sink->opened(table->id).defined()) kept.sink->written(table->id);
    return {words.for_autograd, positions.for_autograd, {}, {}};
  }
};

}  // namespace

at::Tensor token_embedding(const at::Tensor& tokens, const PassParameter& token_table,
                           const PassParameter& position_table, at::ScalarType dtype, GradientSink* sink) {
  Kept kept{.tokens = tokens.contiguous(),
            .words = {token_table.tensor.size(0), token_table.id},
            .positions = {position_table.tensor.size(0), position_table.id},
            .sink = at::GradMode::is_enabled() ? sink : nullptr};
  return TokenEmbedding::apply(token_table.tensor, position_table.tensor, std::move(kept), dtype);
}

void add_token_gradient(const at::Tensor& tokens, const at::Tensor& dx, const at::Tensor& table_gradient) {
  const at::Tensor ids = tokens.contiguous(), rows = dx.contiguous();
  kernels::embed_backward(exec_for(rows), const_float_matrix(rows), ids_of(ids), ids.size(1), matrix(table_gradient),
                          {});
}

}  // namespace qat
