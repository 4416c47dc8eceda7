#include "src/train/pass_speed.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/common/error.h"
#include "src/train/layer_times.h"
#include "src/train/work_timer.h"

namespace qat {
namespace {

// int64 [B, T], any ids.
at::Tensor some_tokens(const Gpt2& model, const SpeedOptions& options) {
  std::mt19937_64 draw(options.seed);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(options.batch * options.length));
  for (std::int64_t& id : ids)
    id = static_cast<std::int64_t>(draw() % static_cast<std::uint64_t>(model.config().vocab_size));
  return at::tensor(ids, at::kLong).view({options.batch, options.length}).to(model.mode().device);
}

// Reading a value of the result waits for the pass.
void run_pass(const Gpt2& model, const at::Tensor& tokens, const ForwardContext& context, WorkTimer& timer) {
  timer.start();
  const at::Tensor hidden = model.hidden(tokens, context);
  const at::Tensor last = hidden.narrow(1, hidden.size(1) - 1, 1).contiguous();
  const at::Tensor logits = model.logits(last, context);
  timer.stop();
  (void)logits.view({-1}).narrow(0, 0, 1).to(at::kCPU, at::kFloat);
}

std::vector<LayerSpeed> layer_speeds(const Gpt2& model, const at::Tensor& tokens, const ForwardContext& context,
                                     const SpeedOptions& options) {
  LayerTimes times(model.mode().device);
  WorkTimer timer(model.mode().device);
  for (std::int64_t pass = 0; pass < options.layer_passes; ++pass) {
    {
      const TraceListening listening(times);
      run_pass(model, tokens, context, timer);
    }
    times.take_pass();
    if (options.beat) options.beat();
  }
  return times.figures();
}

}  // namespace

SpeedFigures speed_figures(std::vector<double> times_ms, const SpeedOptions& options) {
  QAT_CHECK(!times_ms.empty(), "speed is of passes that were timed");
  std::sort(times_ms.begin(), times_ms.end());
  const auto count = static_cast<double>(times_ms.size());
  const double mean = std::accumulate(times_ms.begin(), times_ms.end(), 0.0) / count;
  double squares = 0.0;
  for (const double time : times_ms) squares += (time - mean) * (time - mean);
  const auto percentile = [&](double percent) {
    const auto rank = static_cast<std::size_t>(std::ceil(percent / 100.0 * count));
    return times_ms[std::max<std::size_t>(rank, 1) - 1];
  };
  return {.batch = options.batch,
          .length = options.length,
          .passes = std::ssize(times_ms),
          .warm_up = options.warm_up,
          .mean_ms = mean,
          .deviation_ms = std::sqrt(squares / count),
          .least_ms = times_ms.front(),
          .most_ms = times_ms.back(),
          .p50_ms = percentile(50),
          .p95_ms = percentile(95),
          .p99_ms = percentile(99)};
}

SpeedFigures measure_passes(const Gpt2& model, const PrecisionMap& precision, const RangeTable* ranges,
                            const SpeedOptions& options) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.mode().device;
  c10::DeviceAllocator* memory = device.is_cuda() ? c10::getDeviceAllocator(device.type()) : nullptr;
  WeightCache cache;
  const ForwardContext context{.precision = &precision, .weight_cache = &cache, .ranges = ranges};
  const at::Tensor tokens = some_tokens(model, options);
  WorkTimer timer(device);
  std::vector<double> times_ms;
  if (memory != nullptr) memory->resetPeakStats(device.index());
  for (std::int64_t pass = -options.warm_up; pass < options.passes; ++pass) {
    run_pass(model, tokens, context, timer);
    if (pass >= 0) times_ms.push_back(1e3 * timer.seconds());
    if (options.beat) options.beat();
  }
  SpeedFigures figures = speed_figures(std::move(times_ms), options);
  if (memory != nullptr)
    figures.peak_bytes = memory->getDeviceStats(device.index())
                             .allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
                             .peak;
  figures.layers = layer_speeds(model, tokens, context, options);
  return figures;
}

}  // namespace qat
