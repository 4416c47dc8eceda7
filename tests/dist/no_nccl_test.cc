// make_nccl_world in a program built without NCCL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/comm/agree.h"
#include "dist/comm/local_comm.h"
#include "dist/comm/nccl_comm.h"

namespace qat::dist {
namespace {

TEST(NoNccl, IsACommunicationErrorOfAllRanksThatLeavesTheControlCommunicator) {
  std::unique_ptr<Communicator> control = make_single_comm();
  try {
    (void)make_nccl_world(std::move(control));
    FAIL();
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCommunication);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("-DQAT_WITH_NCCL=ON"));
  }
  ASSERT_NE(control, nullptr);
  EXPECT_EQ(control->size(), 1);
}

}  // namespace
}  // namespace qat::dist
