// This rank's place in the grid of replicas and stages, and what of the model it has.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "dist/grid/process_grid.h"
#include "dist/pipeline/stage_cut.h"
#include "launch/world.h"
#include "src/config/run_config.h"
#include "src/cost/pass_time.h"
#include "src/memory/pass_shape.h"
#include "src/model/gpt2.h"

namespace qat::launch {

class Stages {
 public:
  // Collective, after World::use_device; `config` has been checked against the world's size. Both outlive this.
  Stages(World& world, const RunConfig& config, const ComputeMode& mode);

  const dist::Grid& grid() const { return grid_; }
  // Of this rank's model.
  StageRange range() const;
  // What each stage has; empty without stages.
  std::span<const StagePart> parts() const { return parts_; }

  // A line for each stage; none without stages.
  std::vector<std::string> describe() const;

 private:
  const RunConfig& config_;
  bool cuda_;
  dist::GridGroups groups_;  // empty without stages
  dist::Grid grid_;
  dist::StageCut cut_ = {0};
  ModelTimes times_;
  std::vector<StagePart> parts_;
};

}  // namespace qat::launch
