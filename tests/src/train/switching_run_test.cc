// A long run that is at another width in every step.
#include <malloc.h>

#include <limits>
#include <map>

#include "src/train/owned_state.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TrainerTest;

constexpr std::int64_t kSteps = 1000;

// Bytes that this process has asked for and not given back.
std::size_t heap_in_use() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// The least of a stretch of steps: what is there between them, whatever the other rank is at.
class LeastInUse {
 public:
  void look(std::int64_t step) {
    std::size_t& least = by_hundred_.try_emplace(step / 100, std::numeric_limits<std::size_t>::max()).first->second;
    least = std::min(least, heap_in_use());
  }
  std::size_t of(std::int64_t hundred) const { return by_hundred_.at(hundred); }
  std::string text() const {
    std::string all;
    for (const auto& [hundred, bytes] : by_hundred_) all += std::to_string(bytes) + " ";
    return all;
  }

 private:
  std::map<std::int64_t, std::size_t> by_hundred_;
};

// What a rank owns of each width's parameters and moments, as it was when it was last looked at.
class WidthStates {
 public:
  WidthStates(const ParameterStore& store, ShardedAdamW& optimizer) : store_(store), optimizer_(optimizer) {}

  void keep(int bits) { kept_[bits] = now(bits); }
  bool is_as_kept(int bits) const {
    const auto kept = kept_.find(bits);
    return kept == kept_.end() || kept->second == now(bits);
  }

 private:
  std::vector<float> now(int bits) const {
    std::vector<float> all;
    for (const OwnedState& own : owned_state(store_, optimizer_)) {
      if (store_.info(own.id).group != GroupKey(GroupKind::kWidth, bits)) continue;
      for (const std::span<const float> values : {own.values, own.exp_avg, own.exp_avg_sq})
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  const ParameterStore& store_;
  ShardedAdamW& optimizer_;
  std::map<int, std::vector<float>> kept_;
};

TEST_F(TrainerTest, SwitchingOverEighteenWidthsInEveryStepGrowsNoMemoryAndLeavesTheOthersAlone) {
  TrainerOptions o = options("run", kSteps);
  o.quant.widths = {32};
  for (int bits = 18; bits >= 2; --bits) o.quant.widths.push_back(bits);
  o.precision = {.kind = ScheduleKind::kCyclic, .switch_interval = 1};
  o.train.batch_size = 2, o.train.micro_batch_size = 1, o.train.log_every = 50;
  o.checkpoint.every = 250, o.checkpoint.keep = 1;
  o.eval.bits = {8}, o.eval.max_tokens = 50;
  const auto width_of = [&](std::int64_t step) {
    return o.quant.widths[static_cast<std::size_t>(step) % o.quant.widths.size()];
  };
  const TokenSource tokens = test::tiny_tokens(), held_out = test::tiny_tokens(300);
  LeastInUse memory;
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    test::TinyModel mine;
    mine.lora.slots = mine.config.norm_slots = Slots::kPerWidth;
    Gpt2 model(mine.config, mine.lora, o.quant, StepRunner::padding(comm.size()));
    model.init_random(o.run.seed);
    fs::create_directories(o.run.dir);
    Logger log({.dir = root_ / "logs", .rank = comm.rank()});
    const Sampler samples(tokens, o.data.sequence_length, o.run.seed);
    const HeldOutText text(held_out);
    std::optional<WidthStates> widths;
    std::int64_t seen = 0;
    Trainer trainer(o, {.model = model,
                        .samples = samples,
                        .held_out = text,
                        .grid = comm,
                        .log = log,
                        .on_progress = [&](std::int64_t steps, const std::string&) {
                          if (steps == seen) return;  // a checkpoint, or the beginning
                          ASSERT_EQ(steps, ++seen);
                          widths->keep(width_of(steps - 1));
                          EXPECT_TRUE(widths->is_as_kept(width_of(steps))) << "before step " << steps;
                          if (comm.rank() == 0) memory.look(steps);
                        }});
    widths.emplace(model.parameters(), trainer.runner().optimizer());
    EXPECT_TRUE(trainer.run().finished);
    EXPECT_EQ(seen, kSteps);
    std::map<int, std::int64_t> updates;
    for (std::int64_t step = 0; step < kSteps; ++step) ++updates[width_of(step)];
    for (const ParameterInfo& info : model.parameters().infos())
      EXPECT_EQ(trainer.runner().optimizer().steps()[static_cast<std::size_t>(info.trainable_index)],
                info.group.kind == GroupKind::kWidth ? updates.at(info.group.bits) : kSteps)
          << info.name;
  });
  // Between the second checkpoint and the last. What threads keep comes and goes by some hundred kB; what a width
  // holds, lost at each switch, would be tens of MB.
  EXPECT_LE(memory.of(9), memory.of(5) + 1'000'000) << memory.text();
}

}  // namespace
}  // namespace qat
