#include "src/quant/range_observer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>

#include "kernels/common/error.h"
#include "src/quant/histogram_range.h"

namespace qat {
namespace {

// By elements alone, so that the counts do not depend on who counted which.
at::Tensor magnitude_counts(const at::Tensor& x, float top) {
  const at::Tensor bin = (x.reshape({-1}).to(at::kFloat).abs() * (static_cast<float>(kHistogramBins) / top));
  return at::bincount(bin.clamp_max_(kHistogramBins - 1).to(at::kLong), /*weights=*/{}, kHistogramBins);
}

}  // namespace

RangeObserver::RangeObserver(const Quantizer& quantizer, BitWidth width, std::int64_t cols, at::Device device,
                             const CalibratedRange* replaced)
    : quantizer_(&quantizer), width_(width), replaced_(replaced) {
  const std::int64_t groups = quantizer.calibrated_groups(cols);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  lo_ = at::full({groups}, INFINITY, options);
  hi_ = at::full({groups}, -INFINITY, options);
  if (replaced != nullptr) beyond_ = at::zeros({}, options.dtype(at::kLong));
}

void RangeObserver::start_histogram(float top) {
  top_ = top;
  histogram_ = at::zeros({kHistogramBins}, lo_.options().dtype(at::kLong));
}

void RangeObserver::observe(const at::Tensor& x) {
  if (histogram_.defined()) {
    histogram_ += magnitude_counts(x, top_);
    return;
  }
  const CalibratedRange batch = quantizer_->measure(x, width_);
  if (!at::isfinite(batch.lo).all().item<bool>() || !at::isfinite(batch.hi).all().item<bool>())
    throw Error(ErrorKind::kDiverged,
                fmt::format("calibration of {} ({}) at {} bits saw values that are not finite; the "
                            "model has diverged before this width was calibrated",
                            quantizer_->layer(), quantizer_->role(), width_.bits()));
  lo_ = at::minimum(lo_, batch.lo);
  hi_ = at::maximum(hi_, batch.hi);
  if (batch.mean.defined()) means_.push_back(batch.mean);
  const at::Tensor values = x.to(at::kDouble);
  moments_.push_back(at::stack({values.min(), values.max(), values.sum(), values.square().sum()}));
  values_ += x.numel();
  if (replaced_ != nullptr) beyond_ += quantizer_->count_beyond(x, width_, *replaced_);
}

std::int64_t RangeObserver::beyond() const { return beyond_.defined() ? beyond_.item<std::int64_t>() : 0; }

}  // namespace qat
