#include "src/eval/token_rank.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace qat {
namespace {

at::Tensor ranks_of(const at::Tensor& logits, const at::Tensor& targets) {
  const at::Tensor own = logits.gather(1, targets.unsqueeze(1));
  const at::Tensor ids = at::arange(logits.size(1), targets.options());
  const at::Tensor before =
      at::gt(logits, own).logical_or(at::eq(logits, own).logical_and(at::lt(ids.unsqueeze(0), targets.unsqueeze(1))));
  const at::Tensor broken = logits.sum(1).isnan();
  return at::where(broken, at::full({}, logits.size(1), targets.options()), before.sum(1));
}

}  // namespace

at::Tensor token_ranks(const Gpt2& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardContext& context) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)}), wanted = targets.reshape({-1});
  // A quantized head may have one range for all it reads.
  constexpr std::int64_t kLogitBytes = std::int64_t{64} << 20;
  const std::int64_t most = kLogitBytes / (4 * model.config().vocab_size);
  const std::int64_t chunk = model.config().quantize_lm_head ? rows.size(0) : std::max<std::int64_t>(1, most);
  std::vector<at::Tensor> found;
  for (std::int64_t begin = 0; begin < rows.size(0); begin += chunk) {
    const std::int64_t count = std::min(chunk, rows.size(0) - begin);
    const at::Tensor logits = model.logits(rows.narrow(0, begin, count), context).to(at::kFloat);
    found.push_back(ranks_of(logits, wanted.narrow(0, begin, count)));
  }
  return at::cat(found).to(at::kCPU);
}

}  // namespace qat
