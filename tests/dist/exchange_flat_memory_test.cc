#include "dist/grad/exchange_flat_memory.h"

#include <gtest/gtest.h>

#include <vector>

#include "dist/comm/local_comm.h"
#include "dist/grad/wire_staging.h"

namespace qat::dist {
namespace {

// A group of one that has exchange memory, and notes what was asked for.
class WithMemory final : public Communicator {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string backend() const override { return "with memory"; }
  void all_reduce(BufferView, ReduceOp, StreamRef) override {}
  void reduce_scatter(ConstBufferView, BufferView, ReduceOp, StreamRef) override {}
  void all_gather(ConstBufferView, BufferView, StreamRef) override {}
  void broadcast(BufferView, int, StreamRef) override {}
  void all_to_all(ConstBufferView, BufferView, StreamRef) override {}
  void exchange(std::span<const SendTo>, std::span<const ReceiveFrom>, StreamRef) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override { return nullptr; }
  std::shared_ptr<void> exchange_memory(std::int64_t bytes, std::int64_t largest_sum) override {
    EXPECT_EQ(largest_sum, 0);
    asked.push_back(bytes);
    if (!has_room) return nullptr;
    ++held;
    return {new float[static_cast<std::size_t>(bytes) / 4](), [this](void* data) {
              delete[] static_cast<float*>(data);
              --held;
            }};
  }
  std::vector<std::int64_t> asked;
  bool has_room = true;
  int held = 0;
};

TEST(ExchangeFlatMemory, BuffersAreTheCommunicators) {
  WithMemory comm;
  const std::shared_ptr<FlatMemory> memory = exchange_flat_memory(comm, host_flat_memory());
  std::shared_ptr<float> five = memory->allocate(5);
  const std::span<float> values(five.get(), 5);
  EXPECT_EQ(comm.asked, std::vector<std::int64_t>{20});
  EXPECT_EQ(comm.held, 1);
  const std::vector<float> given{1, 2, 3, 4, 5};
  memory->copy(values, given);
  memory->add(values, given);
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), (std::vector<float>{2, 4, 6, 8, 10}));
  memory->zero(values);
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), std::vector<float>(5));
  five.reset();
  EXPECT_EQ(comm.held, 0);
}

TEST(ExchangeFlatMemory, OtherMemoryWhereThereIsNone) {
  WithMemory comm;
  comm.has_room = false;
  const std::shared_ptr<float> five = exchange_flat_memory(comm, host_flat_memory())->allocate(5);
  ASSERT_NE(five, nullptr);
  EXPECT_EQ(std::vector<float>(five.get(), five.get() + 5), std::vector<float>(5));
  const auto single = make_single_comm();
  EXPECT_EQ(single->exchange_memory(20), nullptr);
  EXPECT_NE(exchange_flat_memory(*single, host_flat_memory())->allocate(5), nullptr);
}

// All ranks take and give up in the same order, which staging that grows keeps to: the old buffer first.
TEST(ExchangeFlatMemory, StagingThatGrowsGivesUpBeforeItTakes) {
  WithMemory comm;
  WireStaging staging(exchange_flat_memory(comm, host_flat_memory()));
  staging.reserve(WireStaging::kSent, 100);
  staging.reserve(WireStaging::kSent, 90);
  staging.reserve(WireStaging::kSent, 200);
  EXPECT_EQ(comm.asked, (std::vector<std::int64_t>{100, 200}));
  EXPECT_EQ(comm.held, 1);
}

}  // namespace
}  // namespace qat::dist
