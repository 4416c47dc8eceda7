#include "src/train/batch.h"

#include <ATen/ATen.h>

#include <span>

#include "kernels/common/error.h"

namespace qat {

Batch sample_batch(const SampleSource& sampler, std::uint64_t first, std::int64_t rows, std::int64_t sequence_length,
                   at::Device device) {
  // Pinned memory lets the copy to a GPU run behind the work that is enqueued there.
  const auto options = at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda());
  at::Tensor inputs = at::empty({rows, sequence_length}, options);
  const std::int64_t targets_each = sampler.targets_per_sample();
  at::Tensor targets = at::empty({rows, targets_each}, options);
  for (std::int64_t row = 0; row < rows; ++row) {
    auto* in = inputs.mutable_data_ptr<std::int32_t>() + row * sequence_length;
    auto* out = targets.mutable_data_ptr<std::int32_t>() + row * targets_each;
    sampler.sample(first + static_cast<std::uint64_t>(row), {in, static_cast<std::size_t>(sequence_length)},
                   {out, static_cast<std::size_t>(targets_each)});
  }
  const auto ids = [&](const at::Tensor& t) { return t.to(device, at::kInt, /*non_blocking=*/true).to(at::kLong); };
  return {ids(inputs), ids(targets)};
}

Batch BatchLoader::take(std::uint64_t first) {
  std::optional<Ahead> ahead;
  ahead.swap(ahead_);
  if (ahead && ahead->first == first) return std::move(ahead->batch);
  return sample_batch(sampler_, first, rows_, sequence_length_, device_);
}

void BatchLoader::prefetch(std::uint64_t first) {
  if (!device_.is_cuda()) return;
  try {
    ahead_ = Ahead{first, sample_batch(sampler_, first, rows_, sequence_length_, device_)};
  } catch (const Error&) {
    ahead_.reset();
  }
}

}  // namespace qat
