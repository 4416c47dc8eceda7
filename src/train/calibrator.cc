#include "src/train/calibrator.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "dist/comm/agree.h"
#include "src/model/stage_transfers.h"
#include "src/quant/histogram_range.h"
#include "src/quant/torch_view.h"
#include "src/train/batch.h"

namespace qat {
namespace {

constexpr float kSmallestTop = 1e-30F;  // of a histogram

// fp64 [batches, n], in order of batches: the same on any number of ranks. mine: [n] of each of this rank's batches,
// which are every comm.size()-th.
at::Tensor over_batches(const std::vector<at::Tensor>& mine, std::int64_t n, std::int64_t batches,
                        dist::Communicator& comm) {
  const std::int64_t ranks = comm.size(), share = (batches + ranks - 1) / ranks;
  at::Tensor own = at::zeros({share, n}, at::kDouble), all = at::empty({ranks, share, n}, at::kDouble);
  for (std::size_t i = 0; i < mine.size(); ++i) own[static_cast<std::int64_t>(i)].copy_(mine[i]);
  const auto elems = [](const at::Tensor& t) {
    return std::span(t.data_ptr<double>(), static_cast<std::size_t>(t.numel()));
  };
  comm.all_gather(view(std::span<const double>(elems(own))), view(elems(all)));
  return all.transpose(0, 1).reshape({share * ranks, n}).narrow(0, 0, batches);
}

// Rows added one after the other.
at::Tensor sum_in_order(const at::Tensor& rows) {
  at::Tensor sum = at::zeros({rows.size(1)}, at::kDouble);
  for (std::int64_t i = 0; i < rows.size(0); ++i) sum += rows[i];
  return sum;
}

InputStatistics statistics_over_ranks(const RangeObserver& observer, std::int64_t batches, dist::Communicator& comm) {
  std::vector<std::int64_t> count = {observer.values()};
  comm.all_reduce(view(std::span(count)), dist::ReduceOp::kSum);
  const at::Tensor moments = over_batches(observer.moments(), 4, batches, comm);
  const at::Tensor sums = sum_in_order(moments);
  const auto values = static_cast<double>(std::max<std::int64_t>(1, count[0]));
  const double mean = sums[2].item<double>() / values, square = sums[3].item<double>() / values;
  return {.min = moments.select(1, 0).min().item<double>(),
          .max = moments.select(1, 1).max().item<double>(),
          .mean = mean,
          .deviation = std::sqrt(std::max(0.0, square - mean * mean)),
          .count = count[0]};
}

// The range of one layer over the batches of all ranks: a handful of numbers, through host memory.
CalibratedRange over_ranks(const RangeObserver& observer, std::int64_t batches, dist::Communicator& comm) {
  const at::Device device = observer.lo().device();
  at::Tensor lo = observer.lo().to(at::kCPU), hi = observer.hi().to(at::kCPU);
  comm.all_reduce(view(span_of(lo)), dist::ReduceOp::kMin);
  comm.all_reduce(view(span_of(hi)), dist::ReduceOp::kMax);
  CalibratedRange range{.lo = lo.to(device), .hi = hi.to(device), .mean = {}, .batches = batches};
  if (observer.wants_mean()) {
    const std::int64_t groups = observer.means().empty() ? lo.numel() : observer.means().front().numel();
    const at::Tensor sum = sum_in_order(over_batches(observer.means(), groups, batches, comm));
    range.mean = (sum / static_cast<double>(batches)).to(at::kFloat).to(device);
  }
  return range;
}

float top_of(const CalibratedRange& range) { return at::maximum(range.lo.abs(), range.hi.abs()).max().item<float>(); }

// The range within what the histograms of all ranks say. Rank 0 says where it ends: logarithms may differ elsewhere.
void narrow(CalibratedRange& range, const RangeObserver& observer, const CalibratorOptions& options,
            dist::Communicator& comm) {
  at::Tensor counts = observer.histogram();
  const std::span<std::int64_t> bins(counts.data_ptr<std::int64_t>(), static_cast<std::size_t>(counts.numel()));
  comm.all_reduce(view(bins), dist::ReduceOp::kSum);
  const float top = top_of(range);
  std::vector<float> limit = {options.method == CalibrationMethod::kPercentile
                                  ? percentile_limit(bins, top, options.percentile)
                                  : entropy_limit(bins, top, observer.width())};
  comm.broadcast(view(std::span(limit)), /*root=*/0);
  range.lo = range.lo.clamp_min(-limit[0]), range.hi = range.hi.clamp_max(limit[0]);
}

double share_beyond(const RangeObserver& observer, dist::Communicator& comm) {
  std::vector<std::int64_t> counts = {observer.beyond(), observer.values()};
  comm.all_reduce(view(std::span(counts)), dist::ReduceOp::kSum);
  return static_cast<double>(counts[0]) / static_cast<double>(std::max<std::int64_t>(1, counts[1]));
}

void run_batch(const Gpt2& model, const SampleSource& sampler, const dist::Grid& grid, std::int64_t batch,
               const CalibratorOptions& options, const ForwardContext& context, std::uint64_t first_sample) {
  const auto first = first_sample + static_cast<std::uint64_t>(batch * options.micro_batch_size);
  at::Tensor tokens = at::zeros({options.micro_batch_size, options.sequence_length},
                                at::TensorOptions().dtype(at::kLong).device(model.mode().device));
  std::optional<Error> unreadable;
  if (grid.is_first_stage()) {
    try {
      tokens =
          sample_batch(sampler, first, options.micro_batch_size, options.sequence_length, model.mode().device).inputs;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kData || grid.stages() == 1) throw;
      unreadable = error;  // the other stages wait for this batch
    }
  }
  const at::Tensor hidden = hidden_over_stages(model, grid, tokens, context);
  if (unreadable) throw Error(*unreadable);
  if (grid.is_last_stage() && model.config().quantize_lm_head) (void)model.logits(hidden, context);
}

// The same answer on all stages of a replica.
bool on_any_stage(bool here, const dist::Grid& grid) {
  if (grid.stages() == 1) return here;
  std::vector<std::int32_t> any = {here ? 1 : 0};
  grid.pipeline().all_reduce(view(std::span(any)), dist::ReduceOp::kMax);
  return any[0] != 0;
}

// This replica's batches through the model, in rounds of one on every replica. False if `poll` says stop on the way.
bool run_batches(const Gpt2& model, const PrecisionMap& precision, RangeObservers& observers,
                 const SampleSource& sampler, const dist::Grid& grid, dist::StopPoll& poll,
                 const CalibratorOptions& options, std::uint64_t first_sample) {
  const ForwardContext context{.precision = &precision, .observers = &observers, .seed = options.seed};
  dist::RankReport report;
  dist::Pace pace;
  std::int64_t unasked = 0;
  poll.start();
  for (std::int64_t round = 0; round < options.batches; round += grid.data_size()) {
    if (round > 0 && unasked >= pace.units()) {
      if (poll.ask(pace, unasked) != 0) return false;
      unasked = 0;
    }
    ++unasked;
    const std::int64_t batch = round + grid.data_rank();
    if (batch >= options.batches || (!report.ok && grid.stages() == 1)) continue;
    try {
      run_batch(model, sampler, grid, batch, options, context, first_sample);
      grid.world().beat();
    } catch (const Error& error) {  // the other ranks wait for this one
      if (error.kind() == ErrorKind::kOutOfMemory) throw;
      if (report.ok) report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
    }
  }
  dist::agree(grid.world(), report, "calibration");
  return true;
}

const QuantLinear& layer_at(const Gpt2& model, std::int64_t layer) { return model.linear(layer); }

}  // namespace

std::vector<std::int64_t> layers_to_calibrate(const Gpt2& model, const PrecisionMap& precision, std::int64_t step,
                                              std::int64_t recalibrate_every) {
  std::vector<std::int64_t> layers;
  for (const QuantLinear& linear : model.linears()) {
    const std::int64_t layer = linear.spec().index;
    const Quantizer& quantizer = linear.activation_quantizer();
    const BitWidth width = precision.at(layer).activation;
    if (width.is_full() || !quantizer.needs_ranges(width)) continue;
    const CalibratedRange* range = quantizer.in_force(range_widths(precision.at(layer)));
    const bool aged = quantizer.source(width) == RangeSource::kCalibrated && range != nullptr &&
                      recalibrate_every > 0 && range->step / recalibrate_every < step / recalibrate_every;
    if (range == nullptr || aged) layers.push_back(layer);
  }
  return layers;
}

std::optional<Calibration> calibrate(const Gpt2& model, const PrecisionMap& precision,
                                     const std::vector<std::int64_t>& layers, const SampleSource& sampler,
                                     const dist::Grid& grid, dist::StopPoll& poll, const CalibratorOptions& options,
                                     std::uint64_t first_sample) {
  dist::Communicator& comm = grid.data();  // whose ranks have the same layers
  const at::NoGradGuard no_grad;
  const dist::SectionMark section(options.board, dist::Section::kCalibration);
  model.parameters().gather(model.groups_used(precision), comm);
  RangeObservers observers;
  for (const std::int64_t layer : layers) {
    const QuantLinear& linear = layer_at(model, layer);
    const Quantizer& quantizer = linear.activation_quantizer();
    observers.try_emplace(layer, quantizer, precision.at(layer).activation, linear.spec().in_features,
                          model.mode().device, quantizer.in_force(range_widths(precision.at(layer))));
  }
  const auto run = [&] { return run_batches(model, precision, observers, sampler, grid, poll, options, first_sample); };
  if (!run()) return std::nullopt;
  Calibration found;
  for (const auto& [layer, observer] : observers) {
    found.ranges[layer] = over_ranks(observer, options.batches, comm);
    found.inputs[layer] = statistics_over_ranks(observer, options.batches, comm);
    if (layer_at(model, layer).activation_quantizer().in_force(range_widths(precision.at(layer))) != nullptr)
      found.beyond[layer] = share_beyond(observer, comm);
  }
  // A range of zeros has nothing to be narrowed to.
  std::vector<std::int64_t> narrowed;
  for (auto& [layer, observer] : observers) {
    const bool calibrated = layer_at(model, layer).activation_quantizer().source(precision.at(layer).activation) ==
                            RangeSource::kCalibrated;
    const float top = top_of(found.ranges.at(layer));
    if (options.method == CalibrationMethod::kMinMax || !calibrated || top < kSmallestTop) continue;
    observer.start_histogram(top);
    narrowed.push_back(layer);
  }
  if (!on_any_stage(!narrowed.empty(), grid)) return found;
  if (!run()) return std::nullopt;
  for (const std::int64_t layer : narrowed) narrow(found.ranges.at(layer), observers.at(layer), options, comm);
  return found;
}

CalibratorOptions calibrator_options(const QuantConfig& quant, std::uint64_t seed, std::int64_t micro_batch_size,
                                     std::int64_t sequence_length, dist::ProgressBoard* board) {
  return {.seed = seed,
          .batches = quant.calibration_batches,
          .method = quant.calibration_method,
          .percentile = quant.calibration_percentile,
          .micro_batch_size = micro_batch_size,
          .sequence_length = sequence_length,
          .board = board};
}

void Calibrator::begin_weights(const PrecisionMap& precision, std::int64_t step) {
  for (QuantLinear& linear : model_.linears()) {
    const LayerPrecision& layer = precision.at(linear.spec().index);
    if (linear.weight_lacks_range(layer)) linear.begin_weight(layer, step);
  }
}

void Calibrator::report(const PrecisionMap& precision, const Calibration& found, std::int64_t step,
                        std::int64_t batches) {
  const CalibrationReport report = calibration_report(model_, precision, found, step, batches);
  log_.info(text_of(report));
  for (const std::string& doubt : doubts_of(report)) log_.warning(doubt);
  if (on_report_) on_report_(report);
}

std::vector<std::int64_t> Calibrator::layers_at(const PrecisionMap& precision, std::int64_t step,
                                                bool& anywhere) const {
  std::vector<std::int64_t> layers = layers_to_calibrate(model_, precision, step, quant_.recalibrate_every);
  const auto& whole = model_.whole().linears();
  const bool ever = std::any_of(whole.begin(), whole.end(), [](const QuantLinear& linear) {
    return linear.activation_quantizer().ever_needs_ranges();
  });
  anywhere = ever && on_any_stage(!layers.empty(), grid_);
  return layers;
}

bool Calibrator::before_step(const PrecisionMap& precision, std::int64_t step, std::uint64_t first_sample) {
  bool anywhere = false;
  const auto layers = layers_at(precision, step, anywhere);
  if (!anywhere) {
    begin_weights(precision, step);
    return true;
  }
  CalibratorOptions options = options_;
  const bool running = quant_.activation.range == RangeSource::kRunning;
  if (running) options.batches = options.step_batches;
  if (quant_.activation.range == RangeSource::kCalibrated)
    log_.info(fmt::format("calibrating activation ranges at step {}", step));
  std::optional<Calibration> found = calibrate(model_, precision, layers, sampler_, grid_, poll_, options,
                                               running ? first_sample : kCalibrationSample);
  if (!found) return false;
  begin_weights(precision, step);
  for (auto& [layer, range] : found->ranges) {
    range.step = step;
    model_.linear(layer).begin_activation(precision.at(layer), range);
  }
  model_.parameters().gather(model_.groups_used(precision), grid_.data());  // what is trained has begun
  report(precision, *found, step, options.batches);
  if (found->beyond.empty()) return true;
  const auto most = std::max_element(found->beyond.begin(), found->beyond.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  log_.info(
      fmt::format("ranges of {} layers taken anew: of the inputs of {}, {:.2f} % lay beyond the old range, more "
                  "than in any other layer",
                  found->beyond.size(), layer_at(model_, most->first).spec().name, 100.0 * most->second));
  return true;
}

const EvaluationRanges* Calibrator::for_evaluation(const std::vector<EvaluatedAt>& widths, std::int64_t steps) {
  (void)made_after(steps);
  std::vector<std::string> own;
  for (const EvaluatedAt& at : widths) {
    if (evaluation_.contains(at)) continue;
    const PrecisionMap precision = evaluation_precision(model_, quant_, at);
    bool anywhere = false;
    const auto layers = layers_at(precision, steps, anywhere);
    if (!anywhere) continue;
    std::optional<Calibration> found = calibrate(model_, precision, layers, sampler_, grid_, poll_, options_);
    if (!found) return nullptr;
    evaluation_[at] = std::move(found->ranges);
    own.push_back(describe(at));
  }
  if (!own.empty())
    log_.debug(
        fmt::format("after step {}: evaluation has activation ranges of its own at {}", steps, fmt::join(own, ", ")));
  return &evaluation_;
}

void Calibrator::prepare_evaluation(const std::vector<EvaluatedAt>& widths, std::int64_t steps) {
  try {
    (void)for_evaluation(widths, steps);
  } catch (const dist::AgreedError& error) {
    if (error.kind() != ErrorKind::kDiverged) throw;
    log_.warning(fmt::format("the checkpoint of step {} will lack activation ranges: {}", steps, error.what()));
  }
}

const EvaluationRanges& Calibrator::made_after(std::int64_t steps) {
  if (steps != evaluated_after_) evaluation_.clear();
  evaluated_after_ = steps;
  return evaluation_;
}

}  // namespace qat
