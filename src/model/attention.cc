#include "src/model/attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "src/model/dropout.h"

// Shape letters: B sequences, T tokens, D width, H heads.

namespace qat {
namespace {

constexpr std::int64_t kMostCudnnHeadDim = 128;

at::Tensor with_dropout(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const AttentionOptions& options) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  const at::Tensor future = at::ones({q.size(2), q.size(2)}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor scores = (at::matmul(q, k.transpose(-2, -1)) * scale).masked_fill(future, -INFINITY);
  return at::matmul(counter_dropout(at::softmax(scores, -1), options.dropout, options.key), v);
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_btd, const at::Tensor& k_btd, const at::Tensor& v_btd,
                            const AttentionOptions& options) {
  const std::int64_t batch = q_btd.size(0), tokens = q_btd.size(1), width = q_btd.size(2);
  const auto by_head = [&](const at::Tensor& t) { return t.view({batch, tokens, options.heads, -1}).transpose(1, 2); };
  const at::Tensor q = by_head(q_btd), k = by_head(k_btd), v = by_head(v_btd);  // [B, H, T, D/H]
  const std::int64_t head_dim = q.size(-1);
  at::Tensor out;
  if (options.dropout > 0.0) {
    out = with_dropout(q, k, v, options);
  } else if (q.is_cuda() && q.scalar_type() == at::kBFloat16 && !options.repeatable && head_dim % 8 == 0 &&
             head_dim <= kMostCudnnHeadDim) {
    // LibTorch's own choice prefers flash attention, which is 1.5 times slower here.
    out = std::get<0>(at::_scaled_dot_product_cudnn_attention(q, k, v, /*attn_bias=*/{}, at::GradMode::is_enabled(),
                                                              /*dropout_p=*/0.0, /*is_causal=*/true));
  } else {
    out = at::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
  }
  return out.transpose(1, 2).reshape({batch, tokens, width});
}

}  // namespace qat
