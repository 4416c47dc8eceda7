#include "src/cost/pass_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "src/memory/memory_model.h"
#include "src/model/gpt2_config.h"

namespace qat {
namespace {

// benchmarks/README.md: build/gpu_step_bench on one H100, sequences of 1,024 tokens.
struct Measured {
  const char* what;
  const char* preset;
  std::int64_t rank;
  std::int64_t batch;  // sequences a pass
  std::int64_t micro_batches;
  double tokens_per_second;
  std::function<void(RunConfig&)> change = [](RunConfig&) {};
  int bits = 8;
};

RunConfig config_of(const Measured& m) {
  RunConfig config;
  apply_gpt2_preset(m.preset, config.model);
  config.lora.rank = m.rank;
  config.data.sequence_length = 1024;
  config.train.micro_batch_size = m.batch;
  config.train.batch_size = m.batch * m.micro_batches;
  config.precision.kind = ScheduleKind::kConstant;
  config.precision.grad_min_bits = m.bits == 32 ? 32 : 8;
  m.change(config);
  return config;
}

double tokens_per_second(const Measured& m) {
  const RunConfig config = config_of(m);
  const DeviceRates rates = gpu_rates("NVIDIA H100 80GB HBM3");
  const PassShape pass = training_pass(config, /*cuda=*/true, m.bits);
  const ParameterCount count = count_parameters(config.model, config.lora, config.quant);
  const double passes = static_cast<double>(m.micro_batches);
  const double step =
      passes * model_times(pass, rates).total() + update_seconds(static_cast<double>(count.trained), rates);
  return passes * static_cast<double>(pass.tokens()) / step;
}

TEST(PassTime, StepsTakeWhatWasMeasuredToATenth) {
  const auto freeze = [](RunConfig& c) { c.model.freeze_base = true; };
  const auto head = [](RunConfig& c) { c.model.quantize_lm_head = true; };
  const auto repeatable = [](RunConfig& c) { c.compute.attention = AttentionChoice::kRepeatable; };
  const auto dropout = [](RunConfig& c) { c.model.embd_dropout = c.model.resid_dropout = 0.1; };
  const auto block = [](RunConfig& c) { c.compute.recompute = Recompute::kBlock; };
  const auto selective = [](RunConfig& c) { c.compute.recompute = Recompute::kSelective; };
  for (const Measured& m : std::vector<Measured>{
           {"adapters", "gpt2", 16, 64, 1, 585e3},
           {"adapters, many tokens", "gpt2", 16, 128, 1, 606e3},
           {"two passes", "gpt2", 16, 32, 2, 555e3},
           {"four passes", "gpt2", 16, 16, 4, 508e3},
           {"eight passes", "gpt2", 16, 8, 8, 396e3},
           {"no adapters", "gpt2", 0, 64, 1, 627e3},
           {"frozen", "gpt2", 64, 64, 1, 685e3, freeze},
           {"unquantized", "gpt2", 0, 64, 1, 536e3, [](RunConfig&) {}, 32},
           {"repeatable attention", "gpt2", 0, 64, 1, 585e3, repeatable},
           {"head on codes", "gpt2", 0, 64, 1, 643e3, head},
           {"dropout", "gpt2", 16, 64, 1, 549e3, dropout},
           {"blocks again", "gpt2", 16, 64, 1, 475e3, block},
           {"GELU again", "gpt2", 16, 64, 1, 571e3, selective},
           {"350M", "gpt2-medium", 0, 64, 1, 255e3},
           {"350M, adapters", "gpt2-medium", 16, 64, 1, 237e3},
           {"1.5B", "gpt2-xl", 0, 24, 1, 63.4e3},
           {"1.5B, adapters", "gpt2-xl", 16, 20, 1, 57e3},
       }) {
    const double ratio = tokens_per_second(m) / m.tokens_per_second;
    EXPECT_GT(ratio, 0.9) << m.what;
    EXPECT_LT(ratio, 1.1) << m.what;
  }
}

constexpr auto kAsItIs = [](RunConfig&) {};

ModelTimes times_of(const std::function<void(RunConfig&)>& change, int bits = 8, bool training = true) {
  const RunConfig config = config_of({"", "gpt2", 0, 64, 1, 0.0, change, bits});
  PassShape pass = training_pass(config, /*cuda=*/true, bits);
  pass.training = training;
  return model_times(pass, gpu_rates("NVIDIA H100 80GB HBM3"));
}

TEST(PassTime, PartsOfTheModelTakeTheirShareOfAStep) {
  const ModelTimes times = times_of(kAsItIs);
  ASSERT_EQ(times.blocks.size(), 12U);
  double blocks = 0.0;
  for (const PassTime& block : times.blocks) blocks += block.total();
  // benchmarks/README.md, ms of a step of 65,536 tokens: products, attention, codes, norms, GELU; projection and loss.
  EXPECT_NEAR(blocks, (28.1 + 18.0 + 16.1 + 7.5 + 4.4) * 1e-3, 0.1 * blocks);
  EXPECT_NEAR(times.head.total(), (19.9 + 4.7) * 1e-3, 0.1 * times.head.total());
  EXPECT_EQ(times.head.forward_s, 0.0);
  EXPECT_LT(times.embedding.total(), 2e-3);
  EXPECT_DOUBLE_EQ(times.total(), blocks + times.head.total() + times.embedding.total());
  const dist::LayerCosts costs = layer_costs(times);
  EXPECT_EQ(costs.blocks.size(), 12U);
  EXPECT_DOUBLE_EQ(costs.blocks[3], times.blocks[3].total());
  EXPECT_DOUBLE_EQ(costs.head, times.head.total());
  EXPECT_DOUBLE_EQ(costs.embedding, times.embedding.total());
}

// benchmarks/README.md: build/stage_time_bench on one core, ms of a block and of the head, both ways.
TEST(PassTime, NarrowModelsOnACoreTakeWhatWasMeasured) {
  struct Case {
    const char* preset;
    std::int64_t sequences, length;
    int bits;
    double block_ms, head_ms;
  };
  for (const Case& one : {Case{"nano", 1, 32, 8, 0.618, 0.197}, Case{"nano", 4, 128, 8, 4.854, 1.310},
                          Case{"micro", 4, 128, 8, 10.47, 2.100}, Case{"micro", 4, 128, 32, 13.00, 2.284},
                          Case{"mini", 4, 128, 8, 56.51, 4.995}}) {
    RunConfig config;
    ASSERT_TRUE(apply_gpt2_preset(one.preset, config.model));
    config.model.n_positions = config.data.sequence_length = one.length;
    config.lora.rank = 0;
    config.train.micro_batch_size = one.sequences;
    config.train.accumulate = Accumulate::kRunning;
    const ModelTimes times = model_times(training_pass(config, /*cuda=*/false, one.bits), cpu_rates(1));
    EXPECT_NEAR(times.blocks[0].total() * 1e3 / one.block_ms, 1.0, 0.1) << one.preset << " " << one.length;
    EXPECT_NEAR(times.head.total() * 1e3 / one.head_ms, 1.0, 0.3) << one.preset << " " << one.length;
  }
}

// The same page: 389 ms for the quickstart's step of 8 micro-batches on one core.
TEST(PassTime, TheQuickstartsStepOnACoreTakesWhatWasMeasured) {
  RunConfig config;
  ASSERT_TRUE(apply_gpt2_preset("micro", config.model));
  config.model.n_positions = config.data.sequence_length = 128;
  config.lora.rank = 8;
  config.train.micro_batch_size = 4;
  const double pass_s = model_times(training_pass(config, /*cuda=*/false, 8), cpu_rates(1)).total();
  EXPECT_NEAR(8.0 * pass_s / 0.389, 1.0, 0.05);
}

TEST(PassTime, WidthsArithmeticAndWhatIsComputedAgainCount) {
  const PassTime codes = times_of(kAsItIs).blocks[0];
  EXPECT_GT(times_of(kAsItIs, /*bits=*/16).blocks[0].forward_s, codes.forward_s);  // values, operator by operator
  EXPECT_DOUBLE_EQ(times_of(kAsItIs, /*bits=*/4).blocks[0].total(), codes.total());
  EXPECT_GT(times_of(kAsItIs, /*bits=*/32).blocks[0].total(), codes.total());
  const PassTime again = times_of([](RunConfig& c) { c.compute.recompute = Recompute::kBlock; }).blocks[0];
  EXPECT_DOUBLE_EQ(again.forward_s, codes.forward_s);
  EXPECT_DOUBLE_EQ(again.backward_s, codes.backward_s + codes.forward_s);
  const PassTime frozen = times_of([](RunConfig& c) { c.model.freeze_base = true; }).blocks[0];
  EXPECT_LT(frozen.backward_s, 0.8 * codes.backward_s);
  // Layers of a map of their own.
  const ModelTimes wide = times_of(
      [](RunConfig& c) { c.quant.overrides = {{.layers = "h.3.*", .weight_bits = 16, .activation_bits = 16}}; });
  EXPECT_DOUBLE_EQ(wide.blocks[2].total(), codes.total());
  EXPECT_GT(wide.blocks[3].total(), codes.total());
}

TEST(PassTime, APassThatDoesNotTrainHasNoBackward) {
  const ModelTimes times = times_of(kAsItIs, /*bits=*/8, /*training=*/false);
  for (const PassTime& block : times.blocks) EXPECT_EQ(block.backward_s, 0.0);
  EXPECT_EQ(times.head.backward_s, 0.0);
  EXPECT_LT(times.head.total(), 0.5 * times_of(kAsItIs).head.total());  // one product of three
  EXPECT_GT(times.embedding.forward_s, 0.0);
}

TEST(DeviceRates, AGpuThatWasNeverMeasuredSaysWhatItIsTakenFor) {
  EXPECT_EQ(gpu_rates("NVIDIA H100 80GB HBM3").name, "H100");
  EXPECT_EQ(gpu_rates("NVIDIA H200").name, "H200");
  EXPECT_GT(gpu_rates("NVIDIA H200").bytes, gpu_rates("NVIDIA H100").bytes);
  EXPECT_EQ(gpu_rates("NVIDIA X1").name, "H100 (in place of NVIDIA X1)");
  EXPECT_DOUBLE_EQ(cpu_rates(4).fp32_products, 4.0 * cpu_rates(1).fp32_products);
}

}  // namespace
}  // namespace qat
