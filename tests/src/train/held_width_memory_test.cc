// Memory that does not suffice for a width's own parameters, on one rank alone, where all ranks gather them.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "dist/comm/agree.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

// In the place of LibTorch's: has no blocks of one size for a rank whose passes are large.
class SmallAllocator final : public c10::Allocator {
 public:
  // Of this thread's rank; null: nothing is refused.
  static thread_local const StepRunner* runner;
  static thread_local bool always;

  explicit SmallAllocator(std::size_t refused) : real_(c10::GetCPUAllocator()), refused_(refused) {
    c10::SetCPUAllocator(this);
  }
  SmallAllocator(const SmallAllocator&) = delete;
  SmallAllocator& operator=(const SmallAllocator&) = delete;
  ~SmallAllocator() override { c10::SetCPUAllocator(real_); }

  c10::DataPtr allocate(std::size_t bytes) override {
    if (runner != nullptr && bytes == refused_ && (always || runner->micro_batch_size() > 1)) throw std::bad_alloc();
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return real_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { real_->copy_data(to, from, bytes); }

 private:
  c10::Allocator* real_;
  std::size_t refused_;
};
thread_local const StepRunner* SmallAllocator::runner = nullptr;
thread_local bool SmallAllocator::always = false;

class HeldWidthMemory : public test::TrainerTest {
 protected:
  HeldWidthMemory() { lora_.slots = config_.norm_slots = Slots::kPerWidth; }

  TrainerOptions switching(const std::string& dir, std::int64_t steps) const {
    TrainerOptions o = options(dir, steps);
    o.quant.widths = {8, 4};
    o.precision = {.kind = ScheduleKind::kCyclic, .switch_interval = 1};
    o.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
    o.eval.bits = {8};
    return o;
  }
  // Of one width's group over two ranks.
  std::size_t group_bytes() const {
    const QuantConfig quant{.widths = {8, 4}};
    const Gpt2 model(config_, lora_, quant, StepRunner::padding(2));
    for (const FlatGroup& group : model.parameters().groups())
      if (group.key == GroupKey(GroupKind::kWidth, 4)) return group.values.nbytes();
    return 0;
  }
  // From step 3 on rank 1's memory is small.
  static Prepare rank_1_is_short(bool always) {
    return [always](Trainer& trainer) {
      StepRunner* const runner = &trainer.runner();
      SmallAllocator::runner = nullptr;
      runner->set_gradient_hook([=](std::int64_t step, std::int64_t micro_batch, int, const at::Tensor&) {
        if (step != 2 || micro_batch * runner->micro_batch_size() < 8) return;
        SmallAllocator::runner = runner;
        SmallAllocator::always = always;
      });
    };
  }
};

TEST_F(HeldWidthMemory, ThatIsShortOnOneRankIsTriedAgainByAllInSmallerPasses) {
  const std::size_t bytes = group_bytes();
  ASSERT_GT(bytes, 0U);
  End end;
  {
    const SmallAllocator allocator(bytes);
    end = train(switching("run", 6), 2, {.granularity = Granularity::kToken}, rank_1_is_short(false));
  }
  EXPECT_TRUE(end.result.finished);
  EXPECT_THAT(read("run", "logs/rank_000.log"),
              ::testing::HasSubstr("out of memory on rank 1 in step 4: from this step on, passes are of 1 sequences"));

  // The same as a run that has had small passes from that step on.
  TrainerOptions large = switching("parts", 6);
  large.checkpoint.every = 3, large.checkpoint.keep = 0;
  train(large, 2);
  test::fs::remove_all(root_ / "parts/checkpoints/step_00000006");
  TrainerOptions rest = switching("parts", 6);
  rest.train.micro_batch_size = 1;
  EXPECT_EQ(train(rest, 2).parameters, end.parameters);
}

TEST_F(HeldWidthMemory, ThatNeverSufficesEndsTheRunOnAllRanksWithOneMessage) {
  const SmallAllocator allocator(group_bytes());
  try {
    train(switching("run", 6), 2, {.granularity = Granularity::kToken}, rank_1_is_short(true));
    FAIL() << "finished";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("out of memory on rank 1, with passes of one sequence"));
  }
}

}  // namespace
}  // namespace qat
