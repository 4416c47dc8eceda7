#include "src/model/stage_transfers.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dist/comm/local_comm.h"

namespace qat {
namespace {

kernels::EncodeOptions codes_of(int bits) { return {.width = BitWidth(bits)}; }

// What arrives at the other of two stages; `sent`: what has been counted.
at::Tensor arrived(const at::Tensor& values, const TransferCodes& codes, TransferBytes* sent = nullptr) {
  at::Tensor there = at::full_like(values, 77.0);
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    StageTransfers transfers(comm);
    if (comm.rank() == 0)
      transfers.send(StageMessage::kForward, values, 1, codes);
    else
      transfers.receive(StageMessage::kForward, there, 0, codes);
    transfers.run();
    if (comm.rank() == 0 && sent != nullptr) *sent = transfers.bytes();
    if (comm.rank() == 1) EXPECT_EQ(transfers.bytes().sent, 0);
  });
  return there;
}

TEST(StageTransfers, ValuesArriveAsTheyAre) {
  torch::manual_seed(1);
  const at::Tensor values = at::randn({2, 5, 6});
  TransferBytes sent;
  EXPECT_TRUE(at::equal(arrived(values, {}, &sent), values));
  EXPECT_EQ(sent.sent, 2 * 5 * 6 * 4);
  EXPECT_EQ(sent.bf16, 2 * 5 * 6 * 2);
}

// Each row has steps of its largest magnitude / q_max, of which nothing is more than half a step away.
TEST(StageTransfers, CodesArriveWithinHalfAStepOfTheirRow) {
  torch::manual_seed(2);
  for (const std::int64_t d : {6, 7, 768})  // in halves of bytes, and where rows have no even number of them
    for (const int bits : {2, 3, 4, 5, 8}) {
      const at::Tensor values = at::randn({2, 5, d}) * at::pow(10.0, at::arange(5).view({1, 5, 1}) - 2);
      TransferBytes sent;
      const at::Tensor got = arrived(values, codes_of(bits), &sent);
      const at::Tensor step = values.abs().amax(-1, true) / ((1 << (bits - 1)) - 1);
      EXPECT_LE(((got - values).abs() / step).max().item<double>(), 0.5001) << d << ' ' << bits;
      EXPECT_TRUE(at::allclose((got / step).round() * step, got)) << d << ' ' << bits;
      EXPECT_TRUE(at::allclose(got.abs().amax(-1, true), values.abs().amax(-1, true))) << d << ' ' << bits;
      EXPECT_EQ(sent.sent, 256 + 10 * (bits <= 4 && d % 2 == 0 ? d / 2 : d));
      EXPECT_EQ(sent.bf16, 10 * d * 2);
    }
}

TEST(StageTransfers, ARowThatIsNotFiniteArrivesAsNoNumbersAndAlone) {
  const at::Tensor values = at::ones({1, 3, 8});
  values[0][1][4] = std::numeric_limits<float>::infinity();
  const at::Tensor got = arrived(values, codes_of(8));
  EXPECT_TRUE(at::isnan(got[0][1]).all().item<bool>());
  EXPECT_TRUE(at::allclose(got[0][0], values[0][0]));
  EXPECT_TRUE(at::allclose(got[0][2], values[0][2]));
}

TEST(StageTransfers, StochasticRoundingIsRightInTheMean) {
  const at::Tensor values = at::full({1, 4000, 2}, 0.3);
  values.select(2, 1).fill_(127.0);
  kernels::EncodeOptions codes = codes_of(8);
  codes.rounding = kernels::Rounding::kStochastic;
  codes.key = {.seed = 3, .stream = 4};
  const at::Tensor got = arrived(values, codes).select(2, 0);
  EXPECT_NEAR(got.mean().item<double>(), 0.3, 0.03);
  EXPECT_EQ(at::logical_or(got == 0.0, got == 1.0).sum().item<std::int64_t>(), 4000);
}

}  // namespace
}  // namespace qat
