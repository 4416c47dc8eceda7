// What the parts of GPT-2 take on one CPU core, forward and backward of a micro-batch, beside the model of times that
// pipelines are cut by (src/cost): where they differ much, src/cost/device_rates.cc wants new numbers.
//
//   build/stage_time_bench [--preset micro] [--micro-batch 4] [--sequence 128] [--bits 8] [--rank 0] [--steps 9]
//
// Each part runs as a stage of its own. Prints medians of CPU time.
#include <fmt/format.h>
#include <malloc.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "src/cost/pass_time.h"
#include "src/model/gpt2.h"

namespace {

// Of this process's CPU time, which others on the machine change little.
double seconds(const std::function<void()>& body) {
  const std::clock_t start = std::clock();
  body();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

qat::PassTime time_stage(const qat::RunConfig& config, const qat::PassShape& shape, const qat::StageRange& range,
                         int steps) {
  qat::Gpt2 model(config.model, config.lora, config.quant, /*pad_to=*/1, {}, config.compute.recompute, range);
  model.init_random(1);
  const std::int64_t rows = shape.sequences, length = config.data.sequence_length;
  const at::Tensor tokens = at::randint(config.model.vocab_size, {rows, length}, at::kLong);
  const at::Tensor states = at::randn({rows, length, config.model.n_embd});
  qat::WeightCache cache;
  const qat::ForwardContext context{.precision = &shape.precision, .training = true, .weight_cache = &cache};
  std::vector<double> forward, backward;
  for (int step = 0; step < steps + 2; ++step) {  // two warm up
    qat::StagePass pass;
    const qat::ModelInput input = range.embeds ? qat::ModelInput{.tokens = tokens} : qat::ModelInput{.states = states};
    forward.push_back(seconds([&] {
      if (range.heads)
        (void)model.loss_and_gradients(input, tokens, context);
      else
        pass = model.forward(input, context);
    }));
    if (!range.heads) backward.push_back(seconds([&] { (void)model.backward(pass, states); }));
  }
  forward.erase(forward.begin(), forward.begin() + 2);
  if (backward.empty()) return {.backward_s = median(forward)};  // both ways
  backward.erase(backward.begin(), backward.begin() + 2);
  return {.forward_s = median(forward), .backward_s = median(backward)};
}

void print(const char* part, const qat::PassTime& measured, const qat::PassTime& modelled) {
  constexpr double kMilli = 1e3;
  fmt::print("{:<18} {:>10.3f} {:>10.3f}   {:>10.3f} {:>10.3f}   {:>6.2f}\n", part, measured.forward_s * kMilli,
             measured.backward_s * kMilli, modelled.forward_s * kMilli, modelled.backward_s * kMilli,
             measured.total() / modelled.total());
}

void run(const std::string& preset, std::int64_t micro_batch, std::int64_t sequence, int bits, std::int64_t rank,
         int steps) {
  at::set_num_threads(1);
  qat::RunConfig config;
  if (!qat::apply_gpt2_preset(preset, config.model))
    throw std::runtime_error("--preset must be one of " + qat::gpt2_preset_names());
  config.model.n_positions = config.data.sequence_length = sequence;
  config.lora.rank = rank;
  config.train.micro_batch_size = micro_batch;
  config.train.accumulate = qat::Accumulate::kRunning;
  const qat::PassShape shape = qat::training_pass(config, /*cuda=*/false, bits);
  const qat::ModelTimes modelled = qat::model_times(shape, qat::cpu_rates(1));
  fmt::print("{}, {} x {} tokens, {} bits, adapters of rank {}, one core\n", preset, micro_batch, sequence, bits, rank);
  fmt::print("{:<18} {:>21}   {:>21}   {:>6}\n", "ms", "measured", "modelled", "ratio");
  fmt::print("{:<18} {:>10} {:>10}   {:>10} {:>10}\n", "", "forward", "backward", "forward", "backward");
  const std::int64_t end = config.model.n_layer;
  print("embedding", time_stage(config, shape, {.chunks = {{0, 0}}, .heads = false}, steps), modelled.embedding);
  print("a block", time_stage(config, shape, {.chunks = {{0, 1}}, .embeds = false, .heads = false}, steps),
        modelled.blocks[0]);
  print("head", time_stage(config, shape, {.chunks = {{end, end}}, .embeds = false}, steps), modelled.head);
}

}  // namespace

int main(int argc, char** argv) {
  std::string preset = "micro";
  std::int64_t micro_batch = 4, sequence = 128, rank = 0;
  int bits = 8, steps = 9;
  CLI::App app{"parts of a model: measured and modelled time"};
  app.add_option("--preset", preset)->capture_default_str();
  app.add_option("--micro-batch", micro_batch)->capture_default_str();
  app.add_option("--sequence", sequence)->capture_default_str();
  app.add_option("--bits", bits)->capture_default_str();
  app.add_option("--rank", rank)->capture_default_str();
  app.add_option("--steps", steps)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  // As the product's main does.
  mallopt(M_MMAP_THRESHOLD, 1 << 28);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  try {
    run(preset, micro_batch, sequence, bits, rank, steps);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
  return 0;
}
