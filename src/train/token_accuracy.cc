#include "src/train/token_accuracy.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <span>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "kernels/loss/softmax_cross_entropy.h"
#include "src/model/stage_transfers.h"
#include "src/quant/torch_view.h"
#include "src/train/batch.h"

namespace qat {
namespace {

// Right ones and all of them, int64 [2]. One sequence's logits at a time.
at::Tensor count_right(const Gpt2& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardContext& context) {
  at::Tensor counts = at::zeros({2}, targets.options());
  for (std::int64_t row = 0; row < targets.size(0); ++row) {
    const at::Tensor valid = targets[row].ne(kernels::kIgnoredTarget);
    const at::Tensor right = model.logits(hidden.narrow(0, row, 1), context).squeeze(0).argmax(-1).eq(targets[row]);
    counts += at::stack({right.logical_and(valid).sum(), valid.sum()});
  }
  return counts;
}

}  // namespace

std::optional<double> token_accuracy(const Gpt2& model, const PrecisionMap& precision, const SampleSource& samples,
                                     const dist::Grid& grid, dist::StopPoll& poll, const AccuracyOf& of) {
  const at::NoGradGuard no_grad;
  model.parameters().gather(model.groups_used(precision), grid.data());
  const ForwardContext context{.precision = &precision, .seed = of.seed};
  const std::int64_t share = of.batch_size / grid.data_size(), first = share * grid.data_rank();
  const at::TensorOptions integers = at::TensorOptions().dtype(at::kLong).device(model.mode().device);
  at::Tensor counts = at::zeros({2}, integers);
  dist::RankReport report;
  dist::Pace pace;
  std::int64_t unasked = 0;
  poll.start();
  for (std::int64_t done = 0; done < share; done += of.micro_batch_size) {
    if (done > 0 && unasked >= pace.units()) {
      if (poll.ask(pace, unasked) != 0) return std::nullopt;
      unasked = 0;
    }
    ++unasked;
    // What cannot be read is told in the end: the other stages and ranks wait for this pass.
    Batch batch{at::zeros({of.micro_batch_size, of.sequence_length}, integers),
                at::zeros({of.micro_batch_size, of.sequence_length}, integers)};
    if (grid.is_first_stage() || grid.is_last_stage()) {
      try {
        batch = sample_batch(samples, of.first_sample + static_cast<std::uint64_t>(first + done), of.micro_batch_size,
                             of.sequence_length, model.mode().device);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kData) throw;
        if (report.ok) report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
      }
    }
    const at::Tensor hidden = hidden_over_stages(model, grid, batch.inputs, context);
    if (grid.is_last_stage()) counts += count_right(model, hidden, batch.targets, context);
    grid.world().beat();
  }
  dist::agree(grid.world(), report, "training tokens");
  const at::Tensor on_host = counts.cpu();
  std::array<std::int64_t, 2> all = {on_host[0].item<std::int64_t>(), on_host[1].item<std::int64_t>()};
  grid.world().all_reduce(view(std::span<std::int64_t>(all)), dist::ReduceOp::kSum);
  return static_cast<double>(all[0]) / static_cast<double>(std::max<std::int64_t>(1, all[1]));
}

}  // namespace qat
