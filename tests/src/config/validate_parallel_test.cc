// Configurations beside the ranks that they are started on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "src/config/validate.h"
#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::load_sets;
using testing::Sets;

std::string parallel_error(const Sets& sets, int world_size) {
  try {
    validate_parallel(load_sets(sets).config, world_size);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

TEST(ValidateParallel, AcceptsRanksThatTheBatchSplitsOver) {
  for (const int ranks : {1, 2, 4, 8}) EXPECT_EQ(parallel_error({}, ranks), "");
  EXPECT_EQ(parallel_error({"parallel.data=4"}, 4), "");
}

TEST(ValidateParallel, NodesAreEquallyLarge) {
  EXPECT_EQ(parallel_error({"comm.ranks_per_node=2"}, 8), "");
  EXPECT_THAT(parallel_error({"comm.ranks_per_node=3"}, 8),
              HasSubstr("comm.ranks_per_node = 3: must divide the data-parallel ranks, 8; nearest: 2 or 4"));
}

TEST(ValidateParallel, NamesTheNearestValidNumbers) {
  EXPECT_EQ(parallel_error({}, 3),
            "the configuration does not fit 3 ranks:\n"
            "  train.batch_size = 32: must be a multiple of train.micro_batch_size * data-parallel ranks = 4 * 3 = 12; "
            "nearest: 24 or 36; or 2 or 4 data-parallel ranks");
  EXPECT_THAT(parallel_error({}, 16),
              HasSubstr("nearest: 64; or train.micro_batch_size = 2; or 8 data-parallel ranks"));
  EXPECT_THAT(parallel_error({"parallel.data=3"}, 4),
              HasSubstr("parallel.data * parallel.pipeline = 3 * 1 = 3, but 4 ranks were started: start 3, or set "
                        "parallel.data to 0"));
}

TEST(ValidateParallel, ChecksStagesAgainstRanksAndLayers) {
  RunConfig config;
  config.parallel.pipeline = 5;
  config.model.n_layer = 4;
  try {
    validate_parallel(config, 8);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("parallel.pipeline = 5: must divide the number of ranks, 8; nearest: 4 or 8"));
    EXPECT_THAT(error.what(), HasSubstr("parallel.pipeline = 5: must not exceed model.n_layer = 4"));
  }
}

TEST(NearestDivisors, AreTheNumberItselfOrItsNeighbours) {
  EXPECT_THAT(nearest_divisors(24, 12), ElementsAre(12));
  EXPECT_THAT(nearest_divisors(24, 5), ElementsAre(4, 6));
  EXPECT_THAT(nearest_divisors(24, 100), ElementsAre(24));
  EXPECT_THAT(nearest_divisors(7, 3), ElementsAre(1, 7));
}

}  // namespace
}  // namespace qat
