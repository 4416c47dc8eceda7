#include "src/train/preflight.h"

#include <gmock/gmock.h>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TrainerOptions options() {
  TrainerOptions o;
  o.train = {.steps = 8, .batch_size = 16, .micro_batch_size = 2};
  o.precision = {.cycles = 2};
  o.data = {.train = {"a.bin"}, .val = {"b.bin"}, .sequence_length = 12};
  o.lr.warmup_steps = 2;
  return o;
}

std::string refusal(ErrorKind kind, const TrainerOptions& o, const TokenSource& train, const TokenSource& val) {
  try {
    (void)check_before_training(o, {}, train, val);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(Preflight, PassesWhatCanRun) {
  EXPECT_THAT(check_before_training(options(), {}, test::tiny_tokens(), test::tiny_tokens(2)), IsEmpty());
}

TEST(Preflight, FindsTextTooShortForASampleOrAPrediction) {
  EXPECT_THAT(refusal(ErrorKind::kData, options(), test::tiny_tokens(12), test::tiny_tokens(50)),
              AllOf(HasSubstr("needs 13 tokens"), HasSubstr("has 12")));
  EXPECT_THAT(refusal(ErrorKind::kData, options(), test::tiny_tokens(), test::tiny_tokens(1)),
              AllOf(HasSubstr("data.val (tiny) has 1 token to read"), HasSubstr("at least 2")));
}

TEST(Preflight, FindsCyclesThatTheEpochsCannotFollow) {
  TrainerOptions o = options();
  o.precision.unit = ScheduleUnit::kEpoch;
  const TokenSource tokens = test::tiny_tokens();
  // 8 steps of 16 samples are a part of one epoch of 332 windows.
  EXPECT_THAT(refusal(ErrorKind::kConfig, o, tokens, test::tiny_tokens(50)),
              AllOf(HasSubstr("precision.cycles"), HasSubstr("1 epoch is too few for one")));
  o.train.steps = 4 * 332 / 16;
  EXPECT_THAT(check_before_training(o, {}, tokens, test::tiny_tokens(50)), IsEmpty());
}

TEST(Preflight, FindsSplitsThatDoNotGoTogether) {
  const TokenSource gpt2 = test::tiny_tokens(4000, 9973), bytes = test::tiny_tokens(2000);
  TrainerOptions o = options();
  EXPECT_THAT(check_before_training(o, {}, gpt2, bytes), ElementsAre(HasSubstr("data.val has no id above 28")));
  o.data.val = {"builtin"};
  EXPECT_THAT(refusal(ErrorKind::kConfig, o, gpt2, bytes), HasSubstr("data.val is [\"builtin\"]"));
  EXPECT_THAT(check_before_training(options(), {}, bytes, test::tiny_tokens(2000)),
              ElementsAre(HasSubstr("in common with data.train")));
}

}  // namespace
}  // namespace qat
