#include "src/cost/pass_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

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
    RecordProperty(m.what, std::to_string(ratio));
    EXPECT_GT(ratio, 0.9) << m.what;
    EXPECT_LT(ratio, 1.1) << m.what;
    if (std::getenv("QAT_PRINT") != nullptr) printf("%-24s %.3f\n", m.what, ratio);
  }
}

ModelTimes times_of(const std::function<void(RunConfig&)>& change, int bits = 8) {
  const RunConfig config = config_of({"", "gpt2", 0, 8, 1, 0.0, change, bits});
  return model_times(training_pass(config, /*cuda=*/true, bits), gpu_rates("NVIDIA H200"));
}

TEST(PassTime, TheHeadOfASmallModelCostsAboutAsMuchAsThreeOfItsBlocks) {
  const ModelTimes times = times_of([](RunConfig&) {});
  ASSERT_EQ(times.blocks.size(), 12U);
  if (std::getenv("QAT_PRINT") != nullptr)
    printf("block %.3e %.3e head %.3e emb %.3e\n", times.blocks[0].forward_s, times.blocks[0].backward_s,
           times.head.total(), times.embedding.total());
}

}  // namespace
}  // namespace qat
