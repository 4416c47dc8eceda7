// Training over ranks that have memory for what they exchange (Communicator::exchange_memory): what lies in it, and
// that no bit depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

// A group that has such memory, on the host.
class WithMemory final : public dist::Communicator {
 public:
  explicit WithMemory(dist::Communicator& comm) : comm_(comm) {}
  int rank() const noexcept override { return comm_.rank(); }
  int size() const noexcept override { return comm_.size(); }
  std::string backend() const override { return comm_.backend(); }
  void all_reduce(BufferView data, dist::ReduceOp op, StreamRef stream) override { comm_.all_reduce(data, op, stream); }
  void reduce_scatter(ConstBufferView in, BufferView out, dist::ReduceOp op, StreamRef stream) override {
    if (holds(in.data)) ++sums;
    comm_.reduce_scatter(in, out, op, stream);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override {
    if (holds(in.data) && holds(out.data)) ++gathers;
    comm_.all_gather(in, out, stream);
  }
  void broadcast(BufferView data, int root, StreamRef stream) override { comm_.broadcast(data, root, stream); }
  void all_to_all(ConstBufferView in, BufferView out, StreamRef stream) override {
    if (holds(in.data) && holds(out.data)) ++exchanges;
    comm_.all_to_all(in, out, stream);
  }
  void exchange(std::span<const dist::SendTo> sends, std::span<const dist::ReceiveFrom> receives,
                StreamRef stream) override {
    comm_.exchange(sends, receives, stream);
  }
  void barrier() override { comm_.barrier(); }
  std::unique_ptr<dist::Communicator> split(int color, int key) override { return comm_.split(color, key); }
  std::shared_ptr<void> exchange_memory(std::int64_t bytes, std::int64_t largest_sum) override {
    EXPECT_LE(largest_sum, bytes);
    if (bytes == 0) return nullptr;
    auto* const data = new float[static_cast<std::size_t>(bytes) / sizeof(float)]();
    held_[reinterpret_cast<std::byte*>(data)] = bytes;
    return {data, [this](void* memory) {
              held_.erase(static_cast<std::byte*>(memory));
              delete[] static_cast<float*>(memory);
            }};
  }
  bool holds(const void* data) const {
    for (const auto& [begin, bytes] : held_)
      if (data >= begin && data < begin + bytes) return true;
    return false;
  }
  std::size_t held() const { return held_.size(); }

  int sums = 0, exchanges = 0, gathers = 0;  // from it, and into it

 private:
  dist::Communicator& comm_;
  std::map<std::byte*, std::int64_t> held_;
};

struct Found {
  std::vector<double> losses;
  std::vector<float> parameters;
  int sums = 0, exchanges = 0, gathers = 0;
  std::string described;
};

Found train(bool with_memory, const StepRunnerOptions& options) {
  const TokenSource tokens = test::tiny_tokens();
  Found found;
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    WithMemory memory(comm);
    TinyModel spec;
    {
      TinyRank rank(spec, tokens, with_memory ? memory : comm, options);
      for (std::uint64_t step = 0; step < 4; ++step) {
        const StepOutcome outcome = rank.step(step, step % 2 == 0 ? 8 : 4, 8);
        if (comm.rank() == 0) found.losses.push_back(outcome.loss);
        const ParameterStore& store = rank.model().parameters();
        const std::vector<ShardValues> sums = rank.runner().gradients().own_sums();
        for (const FlatGroup& group : store.groups())
          EXPECT_EQ(memory.holds(group.values.const_data_ptr()),
                    with_memory && options.comm.copy_engines && !group.is_sharded());
        for (std::size_t g = 0; g < sums.size(); ++g)
          for (const std::span<float> shard : sums[g])
            EXPECT_EQ(memory.holds(shard.data()), with_memory && options.comm.copy_engines &&
                                                      options.comm.wire == WireFormatName::kFp32 &&
                                                      store.groups()[g].key.kind != GroupKind::kWidth);
      }
      const std::vector<float> all = rank.parameters();
      if (comm.rank() == 0) {
        found.parameters = all;
        found.described = rank.runner().gradients().describe();
        found.sums = memory.sums, found.exchanges = memory.exchanges, found.gathers = memory.gathers;
      }
    }
    EXPECT_EQ(memory.held(), 0U);
  });
  return found;
}

TEST(ExchangeMemoryRun, SumsAndCodesLieInItAndNoBitDependsOnIt) {
  for (const WireFormatName wire : {WireFormatName::kFp32, WireFormatName::kInt8}) {
    StepRunnerOptions options = test::tiny_options();
    options.comm.wire = wire;
    options.comm.block = 64;
    const Found without = train(false, options), with = train(true, options);
    EXPECT_EQ(with.losses, without.losses);
    EXPECT_EQ(with.parameters, without.parameters);
    EXPECT_EQ(with.sums > 0, wire == WireFormatName::kFp32);
    EXPECT_EQ(with.exchanges > 0, wire == WireFormatName::kInt8);
    EXPECT_GT(with.gathers, 0) << "weights";
    EXPECT_EQ(without.sums + without.exchanges + without.gathers, 0);
    EXPECT_THAT(without.described, ::testing::Not(::testing::HasSubstr("copy engines")));
    EXPECT_EQ(with.described.find("copy engines") != std::string::npos, wire == WireFormatName::kFp32);
    options.comm.copy_engines = false;
    const Found off = train(true, options);
    EXPECT_EQ(off.losses, without.losses);
    EXPECT_EQ(off.sums + off.exchanges + off.gathers, 0);
  }
}

}  // namespace
}  // namespace qat
