// Which wire `auto` takes, for steps that were measured, and for links that are slow on purpose.
#include "dist/grad/wire_choice.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "dist/comm/local_comm.h"
#include "dist/grad/wire_trial.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// Milliseconds.
WireQuestion question(double fp32, double bf16, double int8, double compute, bool one_host = true) {
  return {.times = {{WireFormat::kFloat32, fp32}, {WireFormat::kBFloat16, bf16}, {WireFormat::kInt8, int8}},
          .compute_s = compute,
          .one_host = one_host};
}

TEST(WireChoice, NvlinkOfTwoGpusKeepsTheExactWire) {
  EXPECT_EQ(choose_wire(question(1.6, 1.2, 1.0, 96.0)), WireFormat::kFloat32);
  EXPECT_EQ(choose_wire(question(1.9, 1.3, 1.0, 16.0)), WireFormat::kFloat32);
  // Nor if codes cost nothing at all.
  EXPECT_EQ(choose_wire(question(1.9, 0.0, 0.0, 16.0)), WireFormat::kFloat32);
}

TEST(WireChoice, SlowLinksOfTwoGpusTakeCodes) {
  EXPECT_EQ(choose_wire(question(156.0, 97.0, 72.0, 16.0)), WireFormat::kInt8);
}

TEST(WireChoice, BetweenHostsLessIsWorthIt) {
  const WireQuestion near = question(30.0, 16.0, 9.0, 96.0, /*one_host=*/true);
  WireQuestion far = near;
  far.one_host = false;
  EXPECT_EQ(choose_wire(near), WireFormat::kFloat32);
  EXPECT_EQ(choose_wire(far), WireFormat::kInt8);
  far.compute_s = 960.0;  // nor there where steps are long
  EXPECT_EQ(choose_wire(far), WireFormat::kFloat32);
}

TEST(WireChoice, WhatBackwardHidesIsNotSaved) {
  WireQuestion hidden = question(30.0, 16.0, 9.0, 96.0, /*one_host=*/false);
  hidden.hidden_s = 30.0;
  EXPECT_EQ(choose_wire(hidden), WireFormat::kFloat32);
  hidden.hidden_s = 5.0;
  EXPECT_EQ(choose_wire(hidden), WireFormat::kInt8);
}

TEST(WireChoice, OfTwoAsFastTheWiderOneIsTaken) {
  EXPECT_EQ(choose_wire(question(100.0, 50.0, 49.9, 0.0)), WireFormat::kBFloat16);
  EXPECT_EQ(choose_wire(question(100.0, 50.0, 40.0, 0.0)), WireFormat::kInt8);
  EXPECT_EQ(choose_wire(question(100.0, 40.0, 50.0, 0.0)), WireFormat::kBFloat16);
}

TEST(WireChoice, AQuestionBeginsWithTheExactWire) {
  EXPECT_THROW((void)choose_wire({}), Error);
  EXPECT_THROW((void)choose_wire({.times = {{WireFormat::kInt8, 1.0}}}), Error);
}

// A group of threads behind links of so many bytes a second each way.
class SlowLinks final : public Communicator {
 public:
  SlowLinks(Communicator& real, double bytes_per_second) : real_(real), rate_(bytes_per_second) {}

  int rank() const noexcept override { return real_.rank(); }
  int size() const noexcept override { return real_.size(); }
  std::string backend() const override { return "slow"; }
  void all_reduce(BufferView data, ReduceOp op, StreamRef stream) override {
    pass(2 * data.bytes());
    real_.all_reduce(data, op, stream);
  }
  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream) override {
    pass(in.bytes());
    real_.reduce_scatter(in, out, op, stream);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override {
    pass(out.bytes());
    real_.all_gather(in, out, stream);
  }
  void broadcast(BufferView data, int root, StreamRef stream) override { real_.broadcast(data, root, stream); }
  void all_to_all(ConstBufferView in, BufferView out, StreamRef stream) override {
    pass(in.bytes());
    real_.all_to_all(in, out, stream);
  }
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef stream) override {
    real_.exchange(sends, receives, stream);
  }
  void barrier() override { real_.barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override { return real_.split(color, key); }

 private:
  void pass(std::size_t bytes) const {
    std::this_thread::sleep_for(std::chrono::duration<double>(static_cast<double>(bytes) / rate_));
  }
  Communicator& real_;
  double rate_;
};

const std::vector<GradWire>& tried() {
  static const std::vector<GradWire> wires = {{}, {.format = WireFormat::kBFloat16}, {.format = WireFormat::kInt8}};
  return wires;
}

TEST(WireTrial, FindsWhatIsFastAndTellsAllRanksTheSame) {
  std::mutex mutex;
  std::set<std::pair<std::int64_t, std::vector<double>>> found;
  run_local_ranks(3, [&](Communicator& comm) {
    SlowLinks slow(comm, /*bytes_per_second=*/1.6e6);
    const WireTrial trial = try_wires(slow, /*nodes=*/nullptr, {}, tried(), 60'000);
    const std::lock_guard lock(mutex);
    found.emplace(trial.elems, trial.seconds);
  });
  ASSERT_EQ(found.size(), 1U) << "ranks disagree";
  const auto& [elems, seconds] = *found.begin();
  EXPECT_EQ(elems % (4096 * 3), 0);
  EXPECT_GE(elems, 60'000);
  // 246 kB at 1.6 MB/s; half as many take at least half as long, and a sanitized build takes its time to encode them.
  EXPECT_GT(seconds.at(0), 0.15);
  EXPECT_LT(seconds.at(1), 0.8 * seconds.at(0));
  EXPECT_LT(seconds.at(2), 0.8 * seconds.at(0));
  const WireTrial trial{elems, seconds};
  EXPECT_NEAR(trial.rate(3), 1.6e6 * 2 / 3, 3e5);
}

TEST(WireTrial, OfVerySlowLinksASmallerTrialIsEnough) {
  run_local_ranks(2, [&](Communicator& comm) {
    SlowLinks slow(comm, /*bytes_per_second=*/5e6);
    const WireTrial trial = try_wires(slow, /*nodes=*/nullptr, {}, tried(), 2'000'000);  // 1.6 s a round in fp32
    EXPECT_EQ(trial.elems, 32'768);
    EXPECT_LT(trial.seconds.at(0), 0.2);
  });
}

TEST(WireTrial, NodesAreTriedOnTheirTwoLevels) {
  run_local_ranks(4, [&](Communicator& comm) {
    const NodeGroups nodes = make_node_groups(comm, 2);
    const WireTrial trial = try_wires(comm, &nodes, {}, tried(), 10'000);
    EXPECT_EQ(trial.elems, 16'384);
    EXPECT_EQ(trial.seconds.size(), 3U);
    for (const double seconds : trial.seconds) EXPECT_GT(seconds, 0.0);
  });
}

}  // namespace
}  // namespace qat::dist
