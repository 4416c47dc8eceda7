#include "src/train/calibrator.h"

#include <ATen/ATen.h>

#include "dist/comm/agree.h"
#include "src/quant/torch_view.h"
#include "src/train/batch.h"

namespace qat {
namespace {

// Calibration samples are taken from far beyond the training run, so that the two do not march in step.
constexpr std::uint64_t kFirstSample = std::uint64_t{1} << 40U;

// Ranges of one layer over all ranks.
void reduce_over_ranks(CalibratedRange& range, dist::Communicator& comm) {
  // A handful of numbers: through host memory, wherever they were collected.
  const at::Device device = range.lo.device();
  const auto move = [&](const at::Device& to) {
    for (at::Tensor* t : {&range.lo, &range.hi, &range.mean})
      if (t->defined()) *t = t->to(to);
  };
  move(at::kCPU);
  comm.all_reduce(view(span_of(range.lo)), dist::ReduceOp::kMin);
  comm.all_reduce(view(span_of(range.hi)), dist::ReduceOp::kMax);
  std::vector<std::int64_t> batches = {range.batches};
  if (range.mean.defined()) {  // still a sum over batches
    const std::span sums(range.mean.mutable_data_ptr<double>(), static_cast<std::size_t>(range.mean.numel()));
    comm.all_reduce(view(sums), dist::ReduceOp::kSum);
  }
  comm.all_reduce(view(std::span(batches)), dist::ReduceOp::kSum);
  range.batches = batches[0];
  move(device);
}

template <typename Body>
void for_each_uncalibrated(std::vector<QuantLinear>& linears, const PrecisionMap& precision, Body&& body) {
  for (QuantLinear& linear : linears) {
    const BitWidth width = precision.at(linear.spec().index).activation;
    const Quantizer& quantizer = linear.activation_quantizer();
    if (quantizer.needs_calibration() && !width.is_full() && !quantizer.is_calibrated(width)) body(linear, width);
  }
}

}  // namespace

bool needs_calibration(Gpt2& model, const PrecisionMap& precision) {
  bool missing = false;
  for_each_uncalibrated(model.linears(), precision, [&](QuantLinear&, BitWidth) { missing = true; });
  return missing;
}

void calibrate(Gpt2& model, const PrecisionMap& precision, const Sampler& sampler, dist::Communicator& comm,
               const CalibratorOptions& options) {
  const at::NoGradGuard no_grad;
  const ForwardContext context{.precision = &precision, .calibrating = true, .seed = options.seed};
  dist::on_every_rank(comm, "calibration samples", [&] {  // which may fail to be read on one of them
    for (std::int64_t batch = comm.rank(); batch < options.batches; batch += comm.size()) {
      const auto first = kFirstSample + static_cast<std::uint64_t>(batch * options.micro_batch_size);
      const Batch data =
          sample_batch(sampler, first, options.micro_batch_size, options.sequence_length, model.mode().device);
      const at::Tensor hidden = model.hidden(data.inputs, context);
      if (model.config().quantize_lm_head) (void)model.logits(hidden, context);
    }
  });
  for_each_uncalibrated(model.linears(), precision, [&](QuantLinear& linear, BitWidth width) {
    Quantizer& quantizer = linear.activation_quantizer();
    CalibratedRange& range = quantizer.collecting(width);
    if (range.batches == 0) range = quantizer.neutral_range(linear.spec().in_features, width, model.mode().device);
    reduce_over_ranks(range, comm);
    quantizer.finish_calibration(width);
  });
}

}  // namespace qat
