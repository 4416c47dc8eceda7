// Which rank does what: world = data parallel x pipeline parallel, rank = data_rank * pipeline + stage, so that the
// stages of one replica are neighbours and stay inside a node.
#pragma once

#include <memory>

#include "dist/comm/communicator.h"

namespace qat::dist {

class ProcessGrid {
 public:
  // `data` 0 stands for world / pipeline. Throws Error(kConfig), with the nearest values that would do, if
  // data * pipeline is not the world's size.
  static ProcessGrid make(int world, int rank, int data, int pipeline);

  int world_size() const noexcept { return data_ * pipeline_; }
  int data_size() const noexcept { return data_; }
  int pipeline_size() const noexcept { return pipeline_; }
  int rank() const noexcept { return rank_; }
  int data_rank() const noexcept { return rank_ / pipeline_; }
  int stage() const noexcept { return rank_ % pipeline_; }
  bool is_first_stage() const noexcept { return stage() == 0; }
  bool is_last_stage() const noexcept { return stage() == pipeline_ - 1; }
  int rank_of(int data_rank, int stage) const;

 private:
  ProcessGrid(int rank, int data, int pipeline) : rank_(rank), data_(data), pipeline_(pipeline) {}
  int rank_;
  int data_;
  int pipeline_;
};

struct GridGroups {
  std::unique_ptr<Communicator> data;      // the ranks with this rank's stage: they hold the same parameters
  std::unique_ptr<Communicator> pipeline;  // the stages of this rank's replica: group rank = stage
};

// Collective over the world.
GridGroups make_groups(const ProcessGrid& grid, Communicator& world);

}  // namespace qat::dist
