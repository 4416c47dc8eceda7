#include "dist/comm/device_assignment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/comm/agree.h"
#include "dist/comm/local_comm.h"

namespace qat::dist {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal(const std::vector<RankDevices>& ranks) {
  try {
    choose_devices(ranks);
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  ADD_FAILURE() << "every rank got a GPU";
  return {};
}

TEST(DeviceAssignment, RanksOfANodeTakeItsDevicesInOrder) {
  const RankDevices a{"a", {"a0", "a1", "a2"}}, b{"b", {"b0", "b1"}};
  EXPECT_THAT(choose_devices(std::vector{a, a, b, b}), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(choose_devices(std::vector{a, b, a, b, a}), ElementsAre(0, 0, 1, 1, 2)) << "placed round robin";
}

TEST(DeviceAssignment, ARankThatSeesOneDeviceOfItsOwnTakesIt) {
  EXPECT_THAT(choose_devices(std::vector<RankDevices>{{"a", {"a0"}}, {"a", {"a1"}}, {"b", {"b0"}}}),
              ElementsAre(0, 0, 0));
}

TEST(DeviceAssignment, ListsInAnotherOrderAreTheSameDevices) {
  EXPECT_THAT(choose_devices(std::vector<RankDevices>{{"a", {"a0", "a1"}}, {"a", {"a0", "a1"}}}), ElementsAre(0, 1));
  EXPECT_THAT(choose_devices(std::vector<RankDevices>{{"a", {"a0", "a1"}}, {"a", {"a1", "a0"}}}), ElementsAre(0, 0));
}

TEST(DeviceAssignment, NodesWithOneNameAreToldApartByTheirDevices) {
  EXPECT_THAT(choose_devices(std::vector<RankDevices>{{"localhost", {"x0"}}, {"localhost", {"y0"}}}),
              ElementsAre(0, 0));
}

TEST(DeviceAssignment, MoreRanksThanDevicesAreRefusedWithTheRemedy) {
  const RankDevices a{"a", {"a0", "a1"}}, b{"b", {"b0"}};
  const std::string text = refusal({a, a, b, b});
  EXPECT_THAT(text, HasSubstr("node b: 2 ranks (ranks 2, 3) cannot each have one of 1 visible GPU alone"));
  EXPECT_THAT(text, HasSubstr("-np 1"));
  EXPECT_THAT(text, HasSubstr("\"cpu\""));
}

TEST(DeviceAssignment, TwoRanksThatSeeTheSameOnlyDeviceAreRefused) {
  EXPECT_THAT(refusal({{"a", {"a0"}}, {"a", {"a0"}}}), HasSubstr("node a: 2 ranks (ranks 0, 1)"));
}

TEST(DeviceAssignment, RanksWithoutADeviceAreNamed) {
  EXPECT_THAT(refusal({{"a", {"a0"}}, {"b", {}}, {"b", {}}}), HasSubstr("node b: no GPU is visible to ranks 1, 2"));
  EXPECT_THAT(refusal({{"a", {"a0", "a1"}}, {"a", {}}}), HasSubstr("node a: rank 1 sees no GPU, others do"));
}

TEST(DeviceAssignment, AllRanksDecideAlike) {
  run_local_ranks(3, [](Communicator& comm) {
    const std::vector<std::string> uuids{"x", "y", "z"};
    EXPECT_EQ(assign_local_devices(comm, {"node", uuids}), comm.rank());
    EXPECT_THROW(assign_local_devices(comm, {"node", {"x", "y"}}), AgreedError);
    EXPECT_THROW(assign_local_devices(comm, {"node", {}}), AgreedError);
  });
}

}  // namespace
}  // namespace qat::dist
