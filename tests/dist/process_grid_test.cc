#include "dist/grid/process_grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string config_error(int world, int data, int pipeline) {
  try {
    ProcessGrid::make(world, /*rank=*/0, data, pipeline);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

TEST(ProcessGrid, StagesOfOneReplicaAreNeighbours) {
  const ProcessGrid grid = ProcessGrid::make(/*world=*/8, /*rank=*/6, /*data=*/2, /*pipeline=*/4);
  EXPECT_EQ(grid.data_rank(), 1);
  EXPECT_EQ(grid.stage(), 2);
  EXPECT_FALSE(grid.is_first_stage());
  EXPECT_FALSE(grid.is_last_stage());
  EXPECT_EQ(grid.rank_of(1, 3), 7);
  EXPECT_THROW(grid.rank_of(2, 0), Error);
}

TEST(ProcessGrid, PlacesAndRanksAreInverse) {
  for (const int pipeline : {1, 2, 3, 6}) {
    for (int rank = 0; rank < 6; ++rank) {
      const ProcessGrid grid = ProcessGrid::make(6, rank, 0, pipeline);
      EXPECT_EQ(grid.data_size(), 6 / pipeline);
      EXPECT_EQ(grid.world_size(), 6);
      EXPECT_EQ(grid.rank_of(grid.data_rank(), grid.stage()), rank);
      EXPECT_EQ(grid.is_first_stage(), rank % pipeline == 0);
      EXPECT_EQ(grid.is_last_stage(), rank % pipeline == pipeline - 1);
    }
  }
}

TEST(ProcessGrid, AWorldThatDoesNotFitNamesTheNumbersAndTheNearestOnesThatDo) {
  EXPECT_THAT(config_error(8, 4, 3),
              AllOf(HasSubstr("parallel.data x parallel.pipeline is 4 x 3 = 12"), HasSubstr("world has 8 ranks"),
                    HasSubstr("parallel.data=4 parallel.pipeline=2"), HasSubstr("start 12 ranks")));
  EXPECT_THAT(config_error(1, 4, 1),
              AllOf(HasSubstr("world has 1 rank;"), HasSubstr("parallel.data=1"), HasSubstr("start 4 ranks")));
  EXPECT_THAT(config_error(8, 0, 3), AllOf(HasSubstr("parallel.pipeline is 3"), HasSubstr("world of 8 ranks"),
                                           HasSubstr("2 or 4"), HasSubstr("start 9 ranks")));
  EXPECT_THAT(config_error(4, 0, 16), AllOf(HasSubstr("nearest valid parallel.pipeline: 4,"), HasSubstr("16 ranks")));
  EXPECT_THAT(config_error(4, 0, 0), HasSubstr("parallel.pipeline is 0"));
  EXPECT_THAT(config_error(4, -1, 1), HasSubstr("parallel.data is -1"));
  EXPECT_THAT(config_error(4, 1 << 30, 1 << 30), HasSubstr("= 1152921504606846976"));  // no overflow
}

TEST(Grid, WithoutStagesTheDataGroupIsTheWorld) {
  const auto world = make_single_comm();
  const Grid grid(*world);
  EXPECT_EQ(&grid.data(), world.get());
  EXPECT_EQ(grid.stages(), 1);
  EXPECT_TRUE(grid.is_first_stage() && grid.is_last_stage());
  EXPECT_THROW((void)grid.pipeline(), Error);
}

TEST(Grid, NamesEveryRanksPlace) {
  run_local_ranks(6, [](Communicator& world) {
    const GridGroups groups = make_groups(ProcessGrid::make(6, world.rank(), 2, 3), world);
    const Grid grid(world, groups);
    EXPECT_EQ(grid.data_size(), 2);
    EXPECT_EQ(grid.stages(), 3);
    EXPECT_EQ(grid.data_rank(), world.rank() / 3);
    EXPECT_EQ(grid.stage(), world.rank() % 3);
    EXPECT_EQ(grid.rank_of(grid.data_rank(), grid.stage()), world.rank());
    EXPECT_EQ(grid.is_last_stage(), world.rank() % 3 == 2);
  });
}

}  // namespace
}  // namespace qat::dist
