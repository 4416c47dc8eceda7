// The estimate of a pass beside what LibTorch allocates in a real one, byte by byte.
#include "src/memory/pass_memory.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>

#include "src/memory/memory_model.h"
#include "src/model/gpt2.h"

namespace qat {
namespace {

// What this thread's tensors take.
class Meter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    live += bytes;
    peak = std::max(peak, live);
  }
  bool memoryProfilingEnabled() const override { return true; }

  std::int64_t live = 0, peak = 0;
};

struct Measured {
  std::int64_t kept = 0;  // after forward
  std::int64_t peak = 0;  // over forward and backward
};

RunConfig small_config() {
  RunConfig config;
  config.model = {.preset = "", .n_layer = 4, .n_head = 4, .n_embd = 64, .n_positions = 128, .vocab_size = 300};
  config.lora = {.rank = 8, .alpha = 16.0};
  config.data.sequence_length = 64;
  config.train.micro_batch_size = 8;
  config.train.batch_size = 8;
  config.precision.kind = ScheduleKind::kConstant;
  config.precision.max_bits = 8;
  return config;
}

// chunked: the loss goes through the tokens in chunks, after what the blocks keep.
Measured measure(const RunConfig& config, bool chunked) {
  Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1, {}, config.compute.recompute);
  model.init_random(1);
  const PassShape shape = training_pass(config, /*cuda=*/false, config.precision.max_bits);
  WeightCache cache;
  const ForwardContext context{.precision = &shape.precision, .training = true, .weight_cache = &cache};
  const at::Tensor tokens =
      at::randint(config.model.vocab_size, {shape.sequences, config.data.sequence_length}, at::kLong);
  // Of questions: no answer in a context of the whole window.
  at::Tensor targets = tokens;
  if (config.model.answers_questions()) {
    targets = at::zeros({shape.sequences, 4}, at::kLong);
    targets.select(1, 3).fill_(config.data.sequence_length);
  }
  (void)model.loss_and_gradients({.tokens = tokens}, targets, context);  // the weights' codes are made
  const auto meter = std::make_shared<Meter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  Measured out;
  {
    const at::Tensor hidden = model.hidden(tokens, context);
    const at::Tensor logits = chunked ? at::Tensor() : model.logits(hidden, context);
    out.kept = meter->live;
  }
  meter->peak = meter->live;
  (void)model.loss_and_gradients({.tokens = tokens}, targets, context);
  out.peak = meter->peak;
  return out;
}

struct Expected {
  std::int64_t kept = 0, peak = 0;  // peak 0: not known
};

Expected expect(const RunConfig& config) {
  const PassShape shape = training_pass(config, /*cuda=*/false, config.precision.max_bits);
  const PassMemory memory = pass_memory(shape);
  const std::int64_t hidden = shape.tokens() * config.model.n_embd * shape.float_bytes();
  Expected out{.kept = memory.kept + hidden};
  const MemoryEstimate all = host_memory_needed(config, {.threads = 1}, /*program=*/0);
  if (all.moment != "a training step") return out;  // a save needs more than so small a step
  out.peak = all.total() - prepared_weight_bytes(shape);
  for (const MemoryConsumer& one : all.consumers)
    if (one.name == "parameters" || one.name == "gradient sums" || one.name == "optimizer") out.peak -= one.bytes;
  return out;
}

void compare(const char* what, const RunConfig& config, bool chunked = true) {
  const Measured measured = measure(config, chunked);
  const Expected expected = expect(config);
  const auto ratio = [](std::int64_t a, std::int64_t b) { return static_cast<double>(a) / static_cast<double>(b); };
  EXPECT_NEAR(ratio(expected.kept, measured.kept), 1.0, 0.05)
      << what << ": " << expected.kept << " expected to be kept, " << measured.kept << " measured";
  if (expected.peak > 0)
    EXPECT_NEAR(ratio(expected.peak, measured.peak), 1.0, 0.12)
        << what << ": a peak of " << expected.peak << " expected, " << measured.peak << " measured";
  printf("%-24s kept %9ld %9ld %.3f  peak %9ld %9ld %.3f\n", what, expected.kept, measured.kept,
         ratio(expected.kept, measured.kept), expected.peak, measured.peak, ratio(expected.peak, measured.peak));
}

TEST(PassMemory, IsWhatLibTorchAllocatesOnEveryPathOfAPass) {
  compare("codes and adapters", small_config());
  RunConfig config = small_config();
  config.lora.rank = 0;
  compare("codes", config);
  config.precision.grad_min_bits = 32;
  compare("unrounded gradients", config);
  config = small_config();
  config.precision.max_bits = 32;
  compare("unquantized", config);
  config = small_config();
  config.quant.activation.symmetric = false;
  compare("values and adapters", config);
  config = small_config();
  config.lora.input = AdapterInput::kRaw;
  compare("raw adapters on codes", config);
  config.lora.quantize = false;
  config.quant.activation.symmetric = false;
  compare("raw adapters on values", config);
  config = small_config();
  config.lora.slots = Slots::kPerWidth, config.lora.rank = 0;
  config.lora.per_width = {{.bits = 8, .rank = 24}};
  compare("adapters of one width", config);
  config = small_config();
  config.quant.widths = {12};
  config.precision.max_bits = 12;
  config.lora.rank = 0;
  compare("12 bits", config);
  config = small_config();
  config.model.freeze_base = true;
  compare("frozen base", config);
  config = small_config();
  config.quant.kv_bits = 8;
  compare("quantized keys and values", config);
  config = small_config();
  config.model.attn_dropout = 0.1;
  compare("attention dropout", config);
  config = small_config();
  config.model.resid_dropout = config.model.embd_dropout = 0.1;
  compare("dropout", config);
  config = small_config();
  config.compute.recompute = Recompute::kBlock;
  compare("recomputed blocks", config);
  config = small_config();
  config.model.tie_lm_head = false;
  compare("untied head", config);
  config = small_config();
  config.model.task = ModelTask::kSpanQa;
  compare("questions", config);
}

TEST(PassMemory, IsWhatLibTorchAllocatesForLargeVocabulariesAndShortBatches) {
  RunConfig config = small_config();
  config.model.vocab_size = 20000;
  compare("large vocabulary", config);
  config.train.micro_batch_size = config.train.batch_size = config.eval.batch_size = 1;
  config.data.sequence_length = 16;
  compare("few tokens", config);
  config = small_config();
  config.model.quantize_lm_head = true;
  compare("head on codes", config);
  config.model.vocab_size = 5000;
  config.quant.activation.symmetric = false;
  compare("head by operators", config, /*chunked=*/false);
}

}  // namespace
}  // namespace qat
