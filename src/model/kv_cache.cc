#include "src/model/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>
#include <string>

#include "kernels/attention/cached_attention.h"
#include "kernels/attention/keep_tokens.h"
#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

// Shape letters: B sequences, T tokens of a pass, M = B T, P room for tokens, D width.

namespace qat {
namespace {

DType kind_of(at::ScalarType dtype) {
  if (dtype == at::kChar) return DType::kInt8;
  return dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

std::span<const std::int64_t> span_of_rows(const at::Tensor& t) {
  return {t.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(t.numel())};
}

}  // namespace

KvCache::KvCache(const Gpt2Config& config, const ComputeMode& mode, const std::vector<std::int64_t>& prompts,
                 std::int64_t capacity)
    : sequences_(static_cast<std::int64_t>(prompts.size())),
      capacity_(capacity),
      heads_(config.n_head),
      width_(config.n_embd) {
  QAT_CHECK(!prompts.empty(), "a cache is of some sequences");
  const auto [least, most] = std::minmax_element(prompts.begin(), prompts.end());
  QAT_CHECK(*least >= 1 && *most <= capacity && capacity <= config.n_positions,
            "prompts of " + std::to_string(*least) + " to " + std::to_string(*most) + " tokens in room for " +
                std::to_string(capacity) + ", of a model that takes " + std::to_string(config.n_positions));
  lengths_ = at::tensor(prompts, at::kLong).to(mode.device);
  first_rows_ = at::arange(sequences_, lengths_.options()) * capacity_;
  positions_ = at::empty({sequences_, 1}, lengths_.options());
  pass_rows_ = at::empty_like(lengths_);
}

void KvCache::begin_pass(std::int64_t sequences, std::int64_t tokens) {
  QAT_CHECK(!at::GradMode::is_enabled(), "a pass with a cache has no gradient");
  QAT_CHECK(sequences == sequences_,
            std::to_string(sequences) + " sequences, and a cache of " + std::to_string(sequences_));
  QAT_CHECK(in_prompts_ ? tokens <= capacity_ : tokens == 1,
            std::to_string(tokens) + " tokens a sequence: at most the cache's room in the first pass, then one");
  pass_tokens_ = tokens;
  if (in_prompts_) return;
  at::Tensor places = positions_.view({sequences_});
  at::clamp_max_out(places, lengths_, capacity_ - 1);
  at::add_out(pass_rows_, first_rows_, places);
  lengths_.copy_(places).add_(1);
}

void KvCache::end_pass() { in_prompts_ = false; }

void KvCache::append(std::int64_t layer, const at::Tensor& rows, const at::Tensor& scales) {
  Kept& kept = layers_[layer];
  if (!in_prompts_) {
    QAT_CHECK(!scales.defined(), "codes of one token are made where they are kept");
    return kernels::keep_tokens(exec_for(rows), const_float_matrix(rows), span_of_rows(pass_rows_),
                                float_matrix(kept.rows));
  }
  const auto put = [&](const at::Tensor& from, at::Tensor& to) {
    if (!from.defined()) return;
    if (!to.defined()) to = at::empty({sequences_ * capacity_, from.size(1)}, from.options());
    to.view({sequences_, capacity_, -1}).narrow(1, 0, pass_tokens_).copy_(from.view({sequences_, pass_tokens_, -1}));
  };
  put(rows, kept.rows);
  put(scales, kept.scales);
}

void KvCache::append_codes(std::int64_t layer, const at::Tensor& rows, BitWidth width) {
  QAT_CHECK(!in_prompts_, "prompts are appended as the codes that their own pass reads");
  const Kept& kept = layers_.at(layer);
  kernels::keep_tokens(exec_for(rows), const_float_matrix(rows), width, span_of_rows(pass_rows_), codes(kept.rows),
                       span_of(kept.scales));
}

at::Tensor KvCache::attend(std::int64_t layer, const at::Tensor& q) const {
  const Kept& kept = layers_.at(layer);
  at::Tensor y = at::empty({sequences_, width_}, q.options());
  kernels::cached_attention(exec_for(q), const_float_matrix(q),
                            {.data = kept.rows.const_data_ptr(),
                             .dtype = kind_of(kept.rows.scalar_type()),
                             .scales = const_span(kept.scales),
                             .capacity = capacity_,
                             .lengths = span_of_rows(lengths_)},
                            heads_, float_matrix(y));
  return y;
}

}  // namespace qat
