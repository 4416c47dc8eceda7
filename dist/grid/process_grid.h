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

// The groups that a rank works in: what a run's parts are handed instead of one communicator, so that the world's size
// never stands for the number of replicas. Does not own them.
class Grid {
 public:
  // Without stages: every rank is a replica, and the data group is the world.
  Grid(Communicator& world) : world_(&world), data_(&world) {}  // NOLINT(google-explicit-constructor)
  // groups: make_groups' over this world.
  Grid(Communicator& world, const GridGroups& groups);

  Communicator& world() const noexcept { return *world_; }
  Communicator& data() const noexcept { return *data_; }
  // Of a grid with more than one stage.
  Communicator& pipeline() const;

  int data_rank() const noexcept { return data_->rank(); }
  int data_size() const noexcept { return data_->size(); }
  int stages() const noexcept { return pipeline_ == nullptr ? 1 : pipeline_->size(); }
  int stage() const noexcept { return pipeline_ == nullptr ? 0 : pipeline_->rank(); }
  int last_stage() const noexcept { return stages() - 1; }
  bool is_first_stage() const noexcept { return stage() == 0; }
  bool is_last_stage() const noexcept { return stage() == last_stage(); }
  // In the world.
  int rank_of(int data_rank, int stage) const noexcept { return data_rank * stages() + stage; }

 private:
  Communicator* world_;
  Communicator* data_;
  Communicator* pipeline_ = nullptr;  // null: no stages
};

}  // namespace qat::dist
