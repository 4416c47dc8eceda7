// Token plus position embeddings on a GPU, as one autograd function.
#pragma once

#include <ATen/core/Tensor.h>

#include "src/quant/linear_pass.h"

namespace qat {

// token_table[tokens] + position_table[0..T-1].   tokens: int64 [B, T], contiguous; tables: fp32; result: [B, T, d] in
// `dtype`. Its backward adds in an order that the tokens alone decide.
//
// sink, or null: where backward leaves the tables' gradients. A gradient that another use of the token table (an output
// projection tied to it) has left there is added to in place, and autograd gets none from here.
at::Tensor token_embedding(const at::Tensor& tokens, const PassParameter& token_table,
                           const PassParameter& position_table, at::ScalarType dtype, GradientSink* sink);

// The token table's part of that backward alone: adds to table_gradient, fp32 [V, d], what the table has by tokens
// (int64 [B, T]) and dx ([B, T, d]), the gradient of token_embedding's result.
void add_token_gradient(const at::Tensor& tokens, const at::Tensor& dx, const at::Tensor& table_gradient);

}  // namespace qat
