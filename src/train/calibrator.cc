#include "src/train/calibrator.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "dist/comm/agree.h"
#include "src/quant/torch_view.h"
#include "src/train/batch.h"

namespace qat {
namespace {

// Calibration samples are taken from far beyond the training run, so that the two do not march in step.
constexpr std::uint64_t kFirstSample = std::uint64_t{1} << 40U;

// Mean over all batches, added in order of batches: the same bits on any number of ranks. means: of this rank's
// batches, which are every comm.size()-th.
at::Tensor mean_over_batches(const std::vector<at::Tensor>& means, std::int64_t groups, std::int64_t batches,
                             dist::Communicator& comm) {
  const std::int64_t ranks = comm.size(), share = (batches + ranks - 1) / ranks;
  at::Tensor mine = at::zeros({share, groups}), all = at::empty({ranks, share, groups});
  for (std::size_t i = 0; i < means.size(); ++i) mine[static_cast<std::int64_t>(i)].copy_(means[i]);
  comm.all_gather(view(const_span(mine)), view(span_of(all)));
  at::Tensor sum = at::zeros({groups}, at::kDouble);
  for (std::int64_t batch = 0; batch < batches; ++batch) sum += all[batch % ranks][batch / ranks];
  return sum.div_(static_cast<double>(batches)).to(at::kFloat);
}

// The range of one layer over the batches of all ranks: a handful of numbers, through host memory.
CalibratedRange over_ranks(const RangeObserver& observer, std::int64_t batches, dist::Communicator& comm) {
  const at::Device device = observer.lo().device();
  at::Tensor lo = observer.lo().to(at::kCPU), hi = observer.hi().to(at::kCPU);
  comm.all_reduce(view(span_of(lo)), dist::ReduceOp::kMin);
  comm.all_reduce(view(span_of(hi)), dist::ReduceOp::kMax);
  CalibratedRange range{.lo = lo.to(device), .hi = hi.to(device), .mean = {}, .batches = batches};
  if (observer.wants_mean()) range.mean = mean_over_batches(observer.means(), lo.numel(), batches, comm).to(device);
  return range;
}

double share_beyond(const RangeObserver& observer, dist::Communicator& comm) {
  std::vector<std::int64_t> counts = {observer.beyond(), observer.values()};
  comm.all_reduce(view(std::span(counts)), dist::ReduceOp::kSum);
  return static_cast<double>(counts[0]) / static_cast<double>(std::max<std::int64_t>(1, counts[1]));
}

void run_batch(const Gpt2& model, const SampleSource& sampler, std::int64_t batch, const CalibratorOptions& options,
               const ForwardContext& context) {
  const auto first = kFirstSample + static_cast<std::uint64_t>(batch * options.micro_batch_size);
  const Batch data =
      sample_batch(sampler, first, options.micro_batch_size, options.sequence_length, model.mode().device);
  const at::Tensor hidden = model.hidden(data.inputs, context);
  if (model.config().quantize_lm_head) (void)model.logits(hidden, context);
}

// This rank's batches through the model, in rounds of one on every rank. False if `poll` says stop on the way.
bool run_batches(const Gpt2& model, const PrecisionMap& precision, RangeObservers& observers,
                 const SampleSource& sampler, dist::Communicator& comm, dist::StopPoll& poll,
                 const CalibratorOptions& options) {
  const ForwardContext context{.precision = &precision, .observers = &observers, .seed = options.seed};
  dist::RankReport report;
  dist::Pace pace;
  std::int64_t unasked = 0;
  poll.start();
  for (std::int64_t round = 0; round < options.batches; round += comm.size()) {
    if (round > 0 && unasked >= pace.units()) {
      if (poll.ask(pace, unasked) != 0) return false;
      unasked = 0;
    }
    ++unasked;
    const std::int64_t batch = round + comm.rank();
    if (batch >= options.batches || !report.ok) continue;
    try {
      run_batch(model, sampler, batch, options, context);
      comm.beat();
    } catch (const Error& error) {  // the other ranks wait for this one
      if (error.kind() == ErrorKind::kOutOfMemory) throw;
      report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
    }
  }
  dist::agree(comm, report, "calibration");
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
    if (!quantizer.needs_calibration() || precision.at(layer).activation.is_full()) continue;
    const CalibratedRange* range = quantizer.in_force(range_widths(precision.at(layer)));
    const bool aged =
        range != nullptr && recalibrate_every > 0 && range->step / recalibrate_every < step / recalibrate_every;
    if (range == nullptr || aged) layers.push_back(layer);
  }
  return layers;
}

std::optional<Calibration> calibrate(const Gpt2& model, const PrecisionMap& precision,
                                     const std::vector<std::int64_t>& layers, const SampleSource& sampler,
                                     dist::Communicator& comm, dist::StopPoll& poll, const CalibratorOptions& options) {
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
  if (!run_batches(model, precision, observers, sampler, comm, poll, options)) return std::nullopt;
  Calibration found;
  for (const auto& [layer, observer] : observers) {
    found.ranges[layer] = over_ranks(observer, options.batches, comm);
    if (layer_at(model, layer).activation_quantizer().in_force(range_widths(precision.at(layer))) != nullptr)
      found.beyond[layer] = share_beyond(observer, comm);
  }
  return found;
}

bool Calibrator::before_step(const PrecisionMap& precision, std::int64_t step) {
  const auto layers = layers_to_calibrate(model_, precision, step, quant_.recalibrate_every);
  if (layers.empty()) return true;
  log_.info(fmt::format("calibrating activation ranges at step {}", step));
  std::optional<Calibration> found = calibrate(model_, precision, layers, sampler_, comm_, poll_, options_);
  if (!found) return false;
  for (auto& [layer, range] : found->ranges) {
    range.step = step;
    model_.linear(layer).activation_quantizer().put_in_force(range_widths(precision.at(layer)), std::move(range));
  }
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
    const auto layers = layers_to_calibrate(model_, precision, steps, quant_.recalibrate_every);
    if (layers.empty()) continue;
    std::optional<Calibration> found = calibrate(model_, precision, layers, sampler_, comm_, poll_, options_);
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
