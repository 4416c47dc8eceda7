#include <gtest/gtest.h>

#include "src/memory/memory_model.h"
#include "tests/src/memory/memory_test_tools.h"

namespace qat {
namespace {

using testing::bytes_of;
using testing::of_preset;

TEST(MemoryModel, MoreOfAnythingNeverTakesLess) {
  for (const bool cuda : {false, true}) {
    RunConfig config = of_preset("micro");
    config.lora.rank = 8;
    config.train.batch_size = 64;
    const RankLayout layout{.cuda = cuda, .ranks = 2, .ranks_here = 2, .threads = 2};
    const auto total = [&](const RunConfig& c, const RankLayout& l) {
      return cuda ? gpu_memory_needed(c, l).total() : host_memory_needed(c, l, program_bytes(false)).total();
    };
    const std::int64_t now = total(config, layout);
    const auto more = [&](const char* what, const auto& change) {
      RunConfig c = config;
      RankLayout l = layout;
      change(c, l);
      EXPECT_GE(total(c, l), now) << what << (cuda ? " on a GPU" : " on a CPU");
    };
    more("layers", [](RunConfig& c, RankLayout&) { c.model.n_layer *= 2; });
    more("width", [](RunConfig& c, RankLayout&) { c.model.n_embd *= 2; });
    more("vocabulary", [](RunConfig& c, RankLayout&) { c.model.vocab_size *= 10; });
    more("tokens", [](RunConfig& c, RankLayout&) { c.data.sequence_length *= 2; });
    more("adapters", [](RunConfig& c, RankLayout&) { c.lora.rank *= 2; });
    more("sequences a pass", [](RunConfig& c, RankLayout&) { c.train.micro_batch_size *= 4; });
    more("passes a step", [](RunConfig& c, RankLayout&) { c.train.batch_size *= 2; });
    more("windows an evaluation", [](RunConfig& c, RankLayout&) { c.eval.batch_size *= 64; });
    more("threads", [](RunConfig&, RankLayout& l) { l.threads *= 2; });
    more("dropout of attention", [](RunConfig& c, RankLayout&) { c.model.attn_dropout = 0.1; });
    more("widths", [](RunConfig& c, RankLayout&) {
      c.precision.kind = ScheduleKind::kList, c.precision.list = {8, 32};
    });
    RunConfig less = config;
    less.compute.recompute = Recompute::kBlock;
    EXPECT_LT(total(less, layout), now);
    less = config;
    less.model.freeze_base = true;
    EXPECT_LE(total(less, layout), now);
  }
}

TEST(MemoryModel, NamesTheMomentThatTakesMost) {
  RunConfig config = of_preset("micro");
  const RankLayout one;
  EXPECT_EQ(host_memory_needed(config, one, 0).moment, "a training step");
  config.eval.batch_size = 512;
  EXPECT_EQ(host_memory_needed(config, one, 0).moment, "evaluation");
  config = of_preset("gpt2");  // on a GPU, main memory has nothing but what is saved, a block at a time
  const MemoryEstimate host = host_memory_needed(config, {.cuda = true, .ranks = 2}, 1000);
  EXPECT_EQ(host.moment, "saving a checkpoint");
  EXPECT_EQ(host.total(), 1000 + (32 << 20));
  // A run that only evaluates has neither gradients nor optimizer.
  const MemoryEstimate evaluation = host_memory_needed(config, {.training = false}, 0);
  EXPECT_EQ(evaluation.moment, "evaluation");
  EXPECT_EQ(bytes_of(evaluation, "gradient sums") + bytes_of(evaluation, "optimizer"), 0);
}

}  // namespace
}  // namespace qat
