// Token plus position embeddings on a GPU, as one autograd function.
#pragma once

#include <ATen/core/Tensor.h>

namespace qat {

// token_table[tokens] + position_table[0..T-1].   tokens: int64 [B, T], contiguous; tables: fp32; result: [B, T, d] in
// `dtype`. Its backward adds in an order that the tokens alone decide.
// add_to: where another use of the table (an output projection tied to it) leaves its gradient before backward comes
// here, fp32 like the table: this one is added to it there, and autograd gets it from the other use alone. Undefined: a
// gradient of its own.
at::Tensor token_embedding(const at::Tensor& tokens, const at::Tensor& token_table, const at::Tensor& position_table,
                           at::ScalarType dtype, const at::Tensor& add_to = {});

}  // namespace qat
