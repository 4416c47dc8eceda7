#include "src/train/stage_features.h"

#include <ATen/ATen.h>

#include <iterator>

#include "src/quant/torch_view.h"

namespace qat {

StageFeatures::StageFeatures(std::span<const std::uint32_t> numbers, std::int64_t micro_batches, at::Device device)
    : numbers_(numbers.begin(), numbers.end()) {
  if (any())
    sums_ = at::zeros({std::ssize(numbers_), micro_batches}, at::TensorOptions().dtype(at::kFloat).device(device));
}

void StageFeatures::keep(std::int64_t micro_batch, const HiddenStates& sums) {
  for (const auto& [number, sum] : sums) {
    const auto row = std::distance(numbers_.begin(), numbers_.find(static_cast<std::uint32_t>(number)));
    sums_[row][micro_batch].copy_(sum);
  }
}

at::Tensor StageFeatures::loss(std::int64_t micro_batch, double divisor) {
  if (!losses_.defined()) losses_ = at::zeros_like(sums_[0]);
  divisor_ = divisor;
  return losses_[micro_batch];
}

void StageFeatures::complete(dist::Communicator& pipeline) {
  if (!any()) return;
  // Exact, in whatever order: each sum has one stage, and zeros of the others.
  pipeline.all_reduce(
      {sums_.data_ptr(), sums_.numel(), DType::kFloat32, sums_.is_cuda() ? Device::kCuda : Device::kCpu},
      dist::ReduceOp::kSum, exec_for(sums_).stream);
  if (!losses_.defined()) return;
  at::Tensor sum = sums_[0];
  for (std::int64_t row = 1; row < sums_.size(0); ++row) sum = sum + sums_[row];
  losses_.copy_(sum / divisor_);
}

}  // namespace qat
