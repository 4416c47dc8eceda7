#include "src/train/calibrator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "src/train/batch.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

// What a layer sees: the first one's inputs are the normalized embeddings, whatever the widths.
TEST(Calibrator, SeesBatchesOfItsOwnFromFarBeyondTraining) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  spec.config.quantize_lm_head = true;
  spec.quant.activation = {.granularity = "feature", .range = "calibrated"};
  TinyRank rank(spec, tokens, *comm, test::tiny_options());
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 4, 4, 8);
  calibrate(rank.model(), map, rank.sampler(), *comm,
            {.seed = 1, .batches = 3, .micro_batch_size = 2, .sequence_length = 12});
  at::Tensor lo, hi;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Batch batch = sample_batch(rank.sampler(), (std::uint64_t{1} << 40U) + i * 2, 2, 12, at::kCPU);
    const auto& store = rank.model().parameters();
    const at::Tensor x = at::layer_norm(at::embedding(store.tensor(0), batch.inputs) + store.tensor(1).narrow(0, 0, 12),
                                        {16});  // norms begin as 1, 0
    const at::Tensor least = x.amin({0, 1}), most = x.amax({0, 1});
    lo = lo.defined() ? at::minimum(lo, least) : least, hi = hi.defined() ? at::maximum(hi, most) : most;
  }
  const CalibratedRange& range = rank.model().linears()[0].activation_quantizer().ranges().at(4);
  EXPECT_TRUE(at::allclose(range.lo, lo, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(range.hi, hi, 1e-5, 1e-5));
  EXPECT_EQ(rank.model().linears().back().activation_quantizer().ranges().at(4).batches, 3);  // the head saw them too
  EXPECT_NO_THROW((void)rank.step(0, 4, 8));
}

// 2-bit log codes keep the mean exponent, of batches that ranks have in unequal numbers.
TEST(Calibrator, MeansAreOverAllBatchesOfAllRanks) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  std::vector<float> expected;
  std::mutex mutex;
  for (const int ranks : {1, 2, 4}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel spec;
      spec.quant.activation = {.method = "log", .granularity = "tensor", .range = "calibrated"};
      TinyRank rank(spec, tokens, comm, test::tiny_options());
      const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 2, 2, 8);
      calibrate(rank.model(), map, rank.sampler(), comm,
                {.seed = 1, .batches = 3, .micro_batch_size = 2, .sequence_length = 12});
      std::vector<float> means;
      for (const QuantLinear& linear : rank.model().linears()) {
        const CalibratedRange& range = linear.activation_quantizer().ranges().at(2);
        EXPECT_GT(range.mean.item<float>(), range.lo.item<float>());
        EXPECT_LT(range.mean.item<float>(), range.hi.item<float>());
        means.push_back(range.mean.item<float>());
      }
      const std::lock_guard lock(mutex);
      if (expected.empty()) expected = means;
      for (std::size_t i = 0; i < means.size(); ++i) EXPECT_NEAR(means[i], expected[i], 1e-4) << ranks;
    });
  }
}

}  // namespace
}  // namespace qat
