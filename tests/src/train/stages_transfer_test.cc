// Hidden states and gradients that go from stage to stage as codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "src/report/json_lines.h"
#include "src/train/resume_check.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

class StagesTransfer : public test::TrainerTest {
 protected:
  StagesTransfer() { config_.n_layer = 4; }
  TrainerOptions coded(const std::string& dir, StageTransfer transfer, std::vector<int> widths = {8}) const {
    TrainerOptions o = options(dir, 6);
    o.transfer = transfer;
    o.precision = {.cycles = 1, .min_bits = widths.front(), .max_bits = widths.front(), .grad_min_bits = 8};
    o.quant.widths = {widths.front(), 32};
    o.eval.bits = {widths.front()};
    return o;
  }
  std::vector<double> numbers(const std::string& dir, const char* key, const char* part = nullptr) const {
    std::vector<double> found;
    for_each_json_line(root_ / dir / "metrics.jsonl", [&](const Value& line) {
      if (line.find(key) == nullptr) return;
      const Value& value = line.at(key);
      found.push_back(part == nullptr ? value.as_double() : static_cast<double>(value.at(part).as_int()));
    });
    return found;
  }
};

// 16 sequences of 12 tokens and 16 values, forward and backward over the boundary, and the embeddings' gradient:
// fp32 takes 4 bytes, codes of 8 bits one and a scale a token, of 4 bits half of that.
TEST_F(StagesTransfer, CodesTakeFewerBytesAndLeaveTheLossNear) {
  stages_ = 2;
  const auto passes = static_cast<double>(options("x", 1).train.batch_size / options("x", 1).train.micro_batch_size);
  const double tokens = static_cast<double>(options("x", 1).train.micro_batch_size * 12), values = tokens * 16;
  const auto scales = std::ceil(tokens * 4 / 256) * 256;
  for (const int bits : {8, 4}) {
    const std::string exact = "exact " + std::to_string(bits), codes = "codes " + std::to_string(bits);
    train(coded(exact, StageTransfer::kValues, {bits}), 2);
    train(coded(codes, StageTransfer::kCodes, {bits}), 2);
    const double forward = bits == 8 ? values : values / 2;
    EXPECT_THAT(numbers(exact, "transfers", "bytes"), ::testing::Each(passes * 3 * 4 * values));
    EXPECT_THAT(numbers(exact, "transfers", "bf16_bytes"), ::testing::Each(passes * 3 * 2 * values));
    EXPECT_THAT(numbers(codes, "transfers", "bytes"),
                ::testing::Each(passes * (forward + scales + values + scales + 4 * values)));
    const std::vector<double> without = numbers(exact, "loss"), with = numbers(codes, "loss");
    ASSERT_EQ(with.size(), 6U);
    EXPECT_NE(with, without) << "nothing was rounded";
    for (std::size_t step = 0; step < with.size(); ++step)
      EXPECT_NEAR(with[step], without[step], bits == 8 ? 0.01 : 0.1) << step;
    EXPECT_LT(with.back(), with.front());
  }
}

// What a stage is sent depends on the micro-batch alone: replicas, schedules and passes change no bit of it.
TEST_F(StagesTransfer, WhatTheCodesAreDependsOnTheCutAlone) {
  stages_ = 2;
  const End two = train(coded("two", StageTransfer::kCodes), 2);
  const End four = train(coded("four", StageTransfer::kCodes), 4);
  EXPECT_EQ(curve("four"), curve("two"));
  EXPECT_TRUE(four.parameters == two.parameters);
  TrainerOptions o = coded("gpipe", StageTransfer::kCodes);
  o.schedule = dist::PipelineSchedule::kGpipe;
  EXPECT_TRUE(train(o, 2).parameters == two.parameters);
  chunks_ = 2;
  o = coded("chunks", StageTransfer::kCodes);
  o.schedule = dist::PipelineSchedule::kInterleaved;
  const End chunks = train(o, 2);
  stages_ = 4, chunks_ = 1;
  // Four stages of a block each are cut where two stages of two chunks are.
  EXPECT_TRUE(train(coded("stages", StageTransfer::kCodes), 4).parameters == chunks.parameters);
}

// Unquantized passes, and widths that no byte holds.
TEST_F(StagesTransfer, WhereThereAreNoCodesValuesGoAsTheyAre) {
  stages_ = 2;
  TrainerOptions o = coded("values", StageTransfer::kValues, {32});
  o.precision.grad_min_bits = 32;
  const End exact = train(o, 2);
  o = coded("codes", StageTransfer::kCodes, {32});
  o.precision.grad_min_bits = 32;
  EXPECT_TRUE(train(o, 2).parameters == exact.parameters);
}

TEST(StagesTransferResume, AResumedRunSaysThatItsTransfersChange) {
  const std::string before = R"({"parallel": {"pipeline": 2, "transfer": "values"}})";
  const std::string after = R"({"parallel": {"pipeline": 4, "transfer": "codes"}})";
  EXPECT_THAT(resumed_changes(before, after), ::testing::ElementsAre(::testing::HasSubstr("parallel.transfer")));
}

}  // namespace
}  // namespace qat
