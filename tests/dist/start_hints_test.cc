#include "dist/comm/start_hints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

namespace qat::dist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Variables = std::map<std::string, std::string>;

// Variables for one test.
class Environment {
 public:
  explicit Environment(Variables variables) : variables_(std::move(variables)) {
    for (const auto& [name, value] : variables_) setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    for (const auto& [name, value] : variables_) unsetenv(name.c_str());
  }

 private:
  Variables variables_;
};

TEST(StartHints, KnowWhichInterfacesAValueSelects) {
  const std::vector<std::string> here{"lo", "eth0", "ib0"};
  for (const char* value : {"eth", "eth0", "ib,en", "=lo", "=eth0,ib0", "^docker", "^lo,eth"})
    EXPECT_TRUE(selects_interface(value, here)) << value;
  for (const char* value : {"nope0", "eth01", "=eth", "^lo,eth,ib", "ETH"})
    EXPECT_FALSE(selects_interface(value, here)) << value;
}

TEST(StartHints, NameInterfacesVariablesAndSharedMemory) {
  EXPECT_THAT(nccl_start_hints(),
              AllOf(HasSubstr("network interfaces here: "), HasSubstr("lo"),
                    HasSubstr("name the right one in NCCL_SOCKET_IFNAME"), HasSubstr("/dev/shm has")));
  const Environment wrong(
      Variables{{"NCCL_SOCKET_IFNAME", "nope0"}, {"NCCL_SHM_DISABLE", "1"}, {"NCCL_P2P_DISABLE", "0"}});
  EXPECT_THAT(nccl_start_hints(), AllOf(HasSubstr("NCCL_SOCKET_IFNAME is \"nope0\", which names none of them"),
                                        HasSubstr("NCCL_SHM_DISABLE is 1"), Not(HasSubstr("NCCL_P2P_DISABLE"))));
  const Environment right(Variables{{"NCCL_SOCKET_IFNAME", "lo"}});
  EXPECT_THAT(nccl_start_hints(), Not(HasSubstr("none of them")));
}

TEST(SharedMemory, IsNeededWhereRanksOfAHostTalkThroughIt) {
  const auto need = [](Variables variables) {
    const Environment set(std::move(variables));
    return shared_memory_need();
  };
  EXPECT_EQ(need({}).folder, "");
  EXPECT_EQ(need({{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}).folder, "");
  const SharedMemoryNeed eight = need({{"OMPI_COMM_WORLD_LOCAL_SIZE", "8"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "5"}});
  EXPECT_EQ(eight.folder, "/dev/shm");
  EXPECT_EQ(eight.bytes, 8 * (4 << 20));
  EXPECT_EQ(eight.local_rank, 5);
  const std::string size = "OMPI_COMM_WORLD_LOCAL_SIZE";
  for (const char* transports : {"self,vader", "self,sm", "^openib", "vader"})
    EXPECT_NE(need({{size, "2"}, {"OMPI_MCA_btl", transports}}).folder, "") << transports;
  for (const char* transports : {"self,tcp", "^vader,sm", "^vader"})
    EXPECT_EQ(need({{size, "2"}, {"OMPI_MCA_btl", transports}}).folder, "") << transports;
  EXPECT_EQ(need({{size, "2"}, {"OMPI_MCA_pml", "ucx"}}).folder, "");
  EXPECT_EQ(need({{size, "2"}, {"OMPI_MCA_btl_vader_segment_size", "1000"}}).bytes, 2000);
  EXPECT_EQ(need({{size, "2"}, {"OMPI_MCA_btl_vader_backing_directory", "/tmp"}}).folder, "/tmp");
}

TEST(StartHints, NameTheOperationThatAnAlgorithmIsFor) {
  EXPECT_EQ(nccl_algorithm_hint("Cuda failure 2 'out of memory'"), "");
  const Environment set(Variables{{"NCCL_ALGO", "Tree"}});
  EXPECT_EQ(nccl_algorithm_hint(""), "");
  EXPECT_THAT(nccl_algorithm_hint("Error : no algorithm/protocol available for function AllGather with datatype "
                                  "ncclInt8. NCCL_ALGO was set to Tree."),
              AllOf(HasSubstr("NCCL_ALGO is \"Tree\""), HasSubstr("NCCL_ALGO=\"allreduce:tree\""),
                    Not(HasSubstr("NCCL_PROTO"))));
}

TEST(SharedMemory, TooLittleOfItIsSaidWithWhatWouldDo) {
  const SharedMemoryNeed need{.folder = "/dev/shm", .bytes = 16 << 20, .ranks = 4};
  EXPECT_EQ(shared_memory_complaint(need, 16 << 20), "");
  EXPECT_THAT(shared_memory_complaint(need, 64 << 10),
              AllOf(HasSubstr("/dev/shm has 64 KiB free, and 4 ranks on this host need 16 MiB"), HasSubstr("remount"),
                    HasSubstr("--shm-size"), HasSubstr("btl self,tcp")));
  EXPECT_NE(shared_memory_complaint(need, (16 << 20) - 1), "");
  EXPECT_EQ(shared_memory_complaint({}, 0), "") << "nothing is shared";
}

}  // namespace
}  // namespace qat::dist
