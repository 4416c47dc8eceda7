// Training steps of GPT-2 on one GPU: tokens/s and memory, and with --trace where the time of a step goes.
//
//   build/gpu_step_bench --preset gpt2 --batch 64 --bits 8 --rank 16 [--freeze-base] [--trace]
//
// The tokens are random: speed does not depend on them. Prints a line for a reader and a JSON line.
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "benchmarks/support/kernel_trace.h"
#include "dist/comm/local_comm.h"
#include "dist/comm/nccl_comm.h"
#include "kernels/common/cuda_device.h"
#include "src/data/sampler.h"
#include "src/train/step_runner.h"

namespace {

struct Setting {
  std::string preset = "gpt2", dtype = "bf16", attention = "fastest", recompute = "none";
  int bits = 8, gradient_bits = 8, steps = 10, warm_up = 4;
  std::int64_t batch = 64, micro_batches = 1, sequence = 1024, rank = 16;
  double dropout = 0.0;
  bool freeze_base = false, quantize_head = false, trace = false;
};

template <qat::NamedEnum E>
E choice(const char* option, const std::string& name) {
  if (const auto value = qat::enum_value<E>(name)) return *value;
  throw qat::Error(qat::ErrorKind::kConfig,
                   fmt::format("--{} {}: must be one of {}", option, name, fmt::join(qat::enum_names<E>(), ", ")));
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void print_trace(qat::bench::KernelTrace& trace, int steps) {
  double busy = 0.0, span = 0.0;
  const auto times = trace.stop(busy, span);
  fmt::print("{:>9} {:>7} {:>6} {:>9}  kernel (per step)\n", "ms", "calls", "%", "idle ms");
  for (std::size_t i = 0; i < std::min<std::size_t>(times.size(), 60); ++i)
    fmt::print("{:9.3f} {:7.1f} {:6.2f} {:9.3f}  {}\n", times[i].milliseconds / steps,
               static_cast<double>(times[i].calls) / steps, times[i].milliseconds / span * 100.0,
               times[i].idle_before / steps, times[i].name.substr(0, 150));
  fmt::print("GPU busy {:.3f} ms of {:.3f} ms a step: {:.2f} % gaps\n", busy / steps, span / steps,
             (1.0 - busy / span) * 100.0);
}

// Of the GPU's memory in use: what LibTorch's tensors took at their worst moment, what its allocator holds for them,
// and what it knows nothing of (gradient sums, the optimizer's moments, CUDA's context, libraries' work areas). GiB.
struct MemoryParts {
  double tensors = 0.0, held = 0.0, beside = 0.0;
};

MemoryParts memory_parts(double in_use_gib) {
  const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(0);
  constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  constexpr double kGiB = 1 << 30;
  const double held = static_cast<double>(stats.reserved_bytes[kAll].current) / kGiB;
  return {.tensors = static_cast<double>(stats.allocated_bytes[kAll].peak) / kGiB,
          .held = held,
          .beside = in_use_gib - held};
}

void run(const Setting& s) {
  const qat::ComputeMode mode = qat::make_compute_mode(/*cuda=*/true, choice<qat::FloatChoice>("dtype", s.dtype),
                                                       choice<qat::AttentionChoice>("attention", s.attention));
  const qat::CudaDeviceInfo gpu = qat::cuda_device_info(0);
  qat::Gpt2Config config;
  qat::apply_gpt2_preset(s.preset, config);
  config.freeze_base = s.freeze_base;
  config.n_positions = s.sequence;
  config.quantize_lm_head = s.quantize_head;
  config.embd_dropout = config.resid_dropout = s.dropout;
  const qat::LoraConfig lora{.rank = s.rank};
  const qat::QuantConfig quant;
  qat::TokenSource tokens;
  std::mt19937 random(1);
  std::vector<std::uint16_t> ids(4'000'000);
  for (std::uint16_t& id : ids) id = static_cast<std::uint16_t>(random() % 50257);
  tokens.add_tokens("random", std::move(ids));
  const qat::Sampler sampler(tokens, s.sequence, /*seed=*/1);
  const auto comm = qat::dist::make_nccl_world(qat::dist::make_single_comm());
  qat::Gpt2 model(config, lora, quant, qat::StepRunner::padding(1), mode,
                  choice<qat::Recompute>("recompute", s.recompute));
  model.init_random(1);
  qat::StepRunner runner(
      model, sampler, *comm,
      {.sequence_length = s.sequence, .train = {.batch_size = s.batch * s.micro_batches, .micro_batch_size = s.batch}});
  const std::vector maps = {qat::PrecisionMap::uniform(config.linears(), s.bits, s.bits, s.gradient_bits)};
  std::uint64_t step = 0;
  qat::dist::StopPoll poll(*comm);
  qat::StepOutcome outcome;
  const auto one_step = [&] {
    const double start = seconds_now();
    outcome = runner.run({.step = step,
                          .first_sample = step * static_cast<std::uint64_t>(s.batch * s.micro_batches),
                          .maps = {{s.bits, s.bits, s.gradient_bits}},
                          .updates = {{.passes = {{.map = 0}}, .learning_rate = 1e-4F}}},
                         maps, poll);
    ++step;
    return seconds_now() - start;
  };
  for (int i = 0; i < s.warm_up; ++i) {
    one_step();
    if (i == 0) fmt::print("first step: loss {:.4f}, gradient norm {:.4f}\n", outcome.loss, outcome.grad_norm);
  }
  // A step returns when its update is enqueued, so a run of steps is timed, not each.
  std::vector<double> times;
  for (int repeat = 0; repeat < 3; ++repeat) {
    qat::cuda_synchronize();
    const double start = seconds_now();
    for (int i = 0; i < s.steps; ++i) one_step();
    qat::cuda_synchronize();
    times.push_back((seconds_now() - start) / s.steps);
  }
  if (s.trace) {
    qat::bench::KernelTrace trace;
    one_step();
    trace.restart();
    for (int i = 0; i < 5; ++i) one_step();
    print_trace(trace, 5);
  }
  const double ms = median(times) * 1e3;
  const double rate = static_cast<double>(s.batch * s.micro_batches * s.sequence) / ms * 1e3;
  const double gib = static_cast<double>(gpu.total_bytes - qat::cuda_free_bytes()) / (1 << 30);
  const MemoryParts parts = memory_parts(gib);
  fmt::print("memory: tensors {:.2f} GiB at most, held for them {:.2f}, beside them {:.2f}\n", parts.tensors,
             parts.held, parts.beside);
  fmt::print(
      "{}: {} {} bits, gradients {}, rank {}{}, {} x {} tokens: {:.2f} ms a step, {:.0f} tokens/s, {:.1f} GiB, "
      "loss {:.4f}\n",
      gpu.name, s.preset, s.bits, s.gradient_bits, s.rank, s.freeze_base ? ", frozen base" : "",
      s.batch * s.micro_batches, s.sequence, ms, rate, gib, outcome.loss);
  fmt::print(
      "{{\"bench\":\"gpu_step\",\"gpu\":\"{}\",\"preset\":\"{}\",\"bits\":{},\"gradient_bits\":{},\"rank\":{},"
      "\"freeze_base\":{},\"batch\":{},\"micro_batches\":{},\"sequence\":{},\"ms\":{:.3f},\"tokens_per_s\":{:.0f},"
      "\"recompute\":\"{}\",\"quantize_head\":{},\"dropout\":{},\"memory_gib\":{:.2f},\"tensors_gib\":{:.2f},"
      "\"held_gib\":{:.2f}}}\n",
      gpu.name, s.preset, s.bits, s.gradient_bits, s.rank, s.freeze_base, s.batch, s.micro_batches, s.sequence, ms,
      rate, s.recompute, s.quantize_head, s.dropout, gib, parts.tensors, parts.held);
}

}  // namespace

int main(int argc, char** argv) {
  Setting s;
  CLI::App app("Training steps on one GPU");
  app.add_option("--preset", s.preset, "gpt2, gpt2-medium, gpt2-large, gpt2-xl");
  app.add_option("--bits", s.bits, "width of weights and activations; 32: unquantized");
  app.add_option("--gradient-bits", s.gradient_bits, "8 or less: backward on codes; 32: unquantized");
  app.add_option("--rank", s.rank, "of the adapters; 0: none");
  app.add_flag("--freeze-base", s.freeze_base, "train adapters and norms only");
  app.add_option("--batch", s.batch, "sequences a pass");
  app.add_option("--micro-batches", s.micro_batches, "passes a step");
  app.add_option("--sequence", s.sequence, "tokens a sequence");
  app.add_option("--steps", s.steps, "steps a measurement; the median of three is printed");
  app.add_option("--dtype", s.dtype, "bf16, tf32, fp32");
  app.add_option("--attention", s.attention, "fastest, repeatable");
  app.add_option("--recompute", s.recompute, "none, block, selective");
  app.add_option("--dropout", s.dropout, "of embeddings and what blocks add to the residual stream");
  app.add_flag("--quantize-head", s.quantize_head, "the output projection on codes too");
  app.add_flag("--trace", s.trace, "time by kernel");
  CLI11_PARSE(app, argc, argv);
  try {
    run(s);
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_step_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
