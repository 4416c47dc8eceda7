#include "launch/stages.h"

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "src/cost/stage_plan.h"
#include "src/cost/stage_report.h"
#include "src/model/stage_cut.h"

namespace qat::launch {
namespace {

dist::GridGroups groups_of(World& world, const ParallelConfig& parallel) {
  if (parallel.pipeline == 1) return {};
  return dist::make_groups(dist::ProcessGrid::make(world.size(), world.rank(), parallel.data, parallel.pipeline),
                           world.comm());
}

// Rank 0's device, so that all ranks cut alike.
DeviceRates rates_of(World& world, const ComputeMode& mode) {
  if (!mode.is_cuda()) return cpu_rates(/*threads=*/1);
  return gpu_rates(dist::broadcast_string(world.comm(), cuda_device_info(mode.device.index()).name));
}

}  // namespace

Stages::Stages(World& world, const RunConfig& config, const ComputeMode& mode)
    : config_(config),
      cuda_(mode.is_cuda()),
      groups_(groups_of(world, config.parallel)),
      grid_(config.parallel.pipeline == 1 ? dist::Grid(world.comm()) : dist::Grid(world.comm(), groups_)) {
  if (grid_.stages() == 1) return;
  times_ = run_times(config, cuda_, rates_of(world, mode));
  cut_ = run_cut(config, times_);
  const std::int64_t micro_batches =
      config.train.batch_size / (config.train.micro_batch_size * std::int64_t{grid_.data_size()});
  for (int stage = 0; stage < grid_.stages(); ++stage) parts_.push_back(stage_part(config, cut_, stage, micro_batches));
}

StageRange Stages::range() const { return stage_range(cut_, grid_.stage(), grid_.stages(), config_.model.n_layer); }

std::vector<std::string> Stages::describe() const {
  if (grid_.stages() == 1) return {};
  return describe_stages(config_, {.cuda = cuda_, .ranks = grid_.data_size()}, times_, cut_);
}

}  // namespace qat::launch
