#include "src/optim/global_norm.h"

#include <cmath>

#include "kernels/common/bit_width.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_flat.h"

namespace qat {

GlobalNorm::GlobalNorm(const OptimLayout& layout, dist::FlatMemory& memory)
    : layout_(layout),
      scratch_(memory.allocate(layout.own_elems() / kNormBlock *
                               static_cast<std::int64_t>(sizeof(double) / sizeof(float)))) {}

std::vector<std::vector<double>> GlobalNorm::blocks_of_tensors(dist::Communicator& data, const kernels::Exec& exec,
                                                               std::span<const dist::BucketShards> grads) {
  QAT_CHECK(grads.size() == layout_.groups.size(), "a norm is that of all groups");
  std::vector<bool> used;
  std::int64_t own = 0;
  for (std::size_t g = 0; g < grads.size(); ++g) {
    used.push_back(!grads[g].empty());
    if (used[g]) own += layout_.groups[g].layout.own_elems(layout_.ranks);
  }
  auto order = orders_.find(used);
  if (order == orders_.end()) order = orders_.emplace(used, layout_.norm_order(used)).first;
  const std::span<double> sums(reinterpret_cast<double*>(scratch_.get()), static_cast<std::size_t>(own / kNormBlock));
  std::size_t done = 0;
  for (const dist::BucketShards& buckets : grads) {
    for (const std::span<const float> shard : buckets) {
      const std::size_t blocks = shard.size() / kNormBlock;
      QAT_CHECK(shard.size() % kNormBlock == 0 && blocks <= sums.size() - done,
                "shards are cut at multiples of kNormBlock");
      kernels::block_sum_squares(exec, shard, kNormBlock, sums.subspan(done, blocks));
      done += blocks;
    }
  }
  QAT_CHECK(done == sums.size(), "a shard of every bucket");
  std::vector<double> mine(sums.size());
  if (exec.device == Device::kCuda)
    cuda_copy_to_host(mine.data(), sums.data(), sums.size_bytes(), exec.stream);
  else
    mine.assign(sums.begin(), sums.end());
  std::vector<double> all(mine.size() * static_cast<std::size_t>(data.size()));
  data.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  std::vector<std::vector<double>> blocks(layout_.tensors.size());
  std::size_t at = 0;  // in the order, which goes through the tensors of groups that take part
  for (std::size_t t = 0; t < layout_.tensors.size(); ++t) {
    const OptimTensor& tensor = layout_.tensors[t];
    if (!used[static_cast<std::size_t>(tensor.group)]) continue;
    const std::int64_t count = (layout_.place(tensor).elems + kNormBlock - 1) / kNormBlock;
    blocks[t].reserve(static_cast<std::size_t>(count));  // the GPU waits while this is added up
    for (const std::size_t end = at + static_cast<std::size_t>(count); at < end; ++at)
      blocks[t].push_back(all[static_cast<std::size_t>(order->second[at])]);
  }
  QAT_CHECK(at == order->second.size(), "a block's sum belongs to a tensor");
  return blocks;
}

double GlobalNorm::operator()(const dist::Grid& grid, const kernels::Exec& exec,
                              std::span<const dist::BucketShards> grads) {
  const std::vector<std::vector<double>> blocks = blocks_of_tensors(grid.data(), exec, grads);
  // Of all tensors, then of each width's.
  std::vector<double> sums(1 + BitWidth::kFull + 1);
  const auto finish = [&] {
    width_squares_.assign(sums.begin() + 1, sums.end());
    return std::sqrt(sums[0]);
  };
  tensor_squares_.assign(layout_.tensors.size(), 0.0);
  const auto add = [&](int chunk, bool leading) {
    for (std::size_t t = 0; t < blocks.size(); ++t) {
      if (layout_.tensors[t].leads != leading || (!leading && layout_.tensors[t].chunk != chunk)) continue;
      double& of_width = sums.at(1 + static_cast<std::size_t>(layout_.tensors[t].width));
      double of_tensor = 0.0;
      for (const double squares : blocks[t]) sums[0] += squares, of_width += squares, of_tensor += squares;
      tensor_squares_[t] = of_tensor;
    }
  };
  if (grid.stages() == 1) {
    add(/*chunk=*/0, /*leading=*/false);
    return finish();
  }
  const auto hand_on = [&](int stage, int chunk, bool leading) {
    if (grid.stage() == stage) add(chunk, leading);
    grid.pipeline().broadcast(view(std::span(sums)), stage);
  };
  hand_on(grid.last_stage(), /*chunk=*/0, /*leading=*/true);
  for (int chunk = 0; chunk < layout_.chunks; ++chunk)
    for (int stage = 0; stage < grid.stages(); ++stage) hand_on(stage, chunk, /*leading=*/false);
  return finish();
}

}  // namespace qat
