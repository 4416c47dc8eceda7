#include "dist/grid/process_grid.h"

#include <cstdlib>
#include <string>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

struct Shape {
  int data;
  int pipeline;
};

// The two counts that multiply to `world` and change the wish least; among equals the one with fewer stages.
Shape nearest_shape(int world, Shape wish) {
  Shape best{world, 1};
  const auto distance = [&](Shape s) { return std::abs(s.data - wish.data) + std::abs(s.pipeline - wish.pipeline); };
  for (int pipeline = 2; pipeline <= world; ++pipeline) {
    const Shape shape{world / pipeline, pipeline};
    if (world % pipeline == 0 && distance(shape) < distance(best)) best = shape;
  }
  return best;
}

// "2 or 4": the divisors of `world` around a value that is not one.
std::string nearest_divisors(int world, int value) {
  int below = 0;
  int above = 0;
  for (int d = 1; d <= world; ++d) {
    if (world % d != 0) continue;
    if (d < value) below = d;
    if (d > value && above == 0) above = d;
  }
  return above == 0 ? std::to_string(below) : std::to_string(below) + " or " + std::to_string(above);
}

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kConfig, message); }

std::string ranks(int count) { return std::to_string(count) + (count == 1 ? " rank" : " ranks"); }

}  // namespace

ProcessGrid ProcessGrid::make(int world, int rank, int data, int pipeline) {
  QAT_CHECK(world >= 1 && rank >= 0 && rank < world, "a rank lies inside its world");
  if (pipeline < 1) refuse("parallel.pipeline is " + std::to_string(pipeline) + ", expected at least 1 stage");
  if (data < 0) {
    refuse("parallel.data is " + std::to_string(data) + ", expected 0 (as many replicas as fit) or more");
  }
  if (data == 0 && world % pipeline != 0) {
    // The next world that fits has at least one replica.
    const int larger = (world + pipeline - 1) / pipeline * pipeline;
    refuse("parallel.pipeline is " + std::to_string(pipeline) + ", which does not divide the world of " + ranks(world) +
           " (parallel.data is 0: as many replicas as fit); nearest valid parallel.pipeline: " +
           nearest_divisors(world, pipeline) + ", or start " + ranks(larger));
  }
  if (data == 0) data = world / pipeline;
  const std::int64_t wanted = std::int64_t{data} * pipeline;
  if (wanted != world) {
    const Shape nearest = nearest_shape(world, {data, pipeline});
    refuse("parallel.data x parallel.pipeline is " + std::to_string(data) + " x " + std::to_string(pipeline) + " = " +
           std::to_string(wanted) + ", but the world has " + ranks(world) + "; nearest valid: parallel.data=" +
           std::to_string(nearest.data) + " parallel.pipeline=" + std::to_string(nearest.pipeline) + ", or start " +
           std::to_string(wanted) + (wanted == 1 ? " rank" : " ranks"));
  }
  return {rank, data, pipeline};
}

int ProcessGrid::rank_of(int data_rank, int stage) const {
  QAT_CHECK(data_rank >= 0 && data_rank < data_ && stage >= 0 && stage < pipeline_, "no such place in the grid");
  return data_rank * pipeline_ + stage;
}

GridGroups make_groups(const ProcessGrid& grid, Communicator& world) {
  QAT_CHECK(grid.world_size() == world.size() && grid.rank() == world.rank(), "the grid is of another world");
  GridGroups groups;
  groups.data = world.split(/*color=*/grid.stage(), /*key=*/grid.data_rank());
  groups.pipeline = world.split(/*color=*/grid.data_rank(), /*key=*/grid.stage());
  return groups;
}

Grid::Grid(Communicator& world, const GridGroups& groups)
    : world_(&world), data_(groups.data.get()), pipeline_(groups.pipeline.get()) {
  QAT_CHECK(rank_of(data_rank(), stage()) == world.rank() && data_size() * stages() == world.size(),
            "the groups are of another world");
}

Communicator& Grid::pipeline() const {
  QAT_CHECK(pipeline_ != nullptr, "a grid of one stage has no pipeline");
  return *pipeline_;
}

}  // namespace qat::dist
