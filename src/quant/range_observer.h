// What calibration sees of one quantizer's inputs, batch by batch: the passes of a calibration feed it, its owner reads
// it out and merges it over the ranks (src/train/calibrator.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "src/quant/quantizer.h"

namespace qat {

class RangeObserver {
 public:
  // `replaced`: the range that this one will take the place of, or null; inputs beyond its reach are counted. It and
  // the quantizer outlive the observer. `cols`: last dimension of the inputs.
  RangeObserver(const Quantizer& quantizer, BitWidth width, std::int64_t cols, at::Device device,
                const CalibratedRange* replaced = nullptr);

  // Adds a batch, x: [..., cols]. Throws Error(kDiverged) naming layer and width if x is not finite.
  void observe(const at::Tensor& x);
  // From now on observe() is shown the same batches again, and counts: bin i of kHistogramBins has the values of
  // magnitude top i / kHistogramBins and more, the last one all from there on.
  void start_histogram(float top);

  // fp32 [groups]: minimum and maximum over the batches so far; +-infinity, neutral to both, before the first.
  const at::Tensor& lo() const { return lo_; }
  const at::Tensor& hi() const { return hi_; }
  // fp32 [groups], one a batch in the order they came; empty where the quantizer needs no mean.
  const std::vector<at::Tensor>& means() const { return means_; }
  bool wants_mean() const { return quantizer_->wants_mean(width_); }
  // fp64 [4], one a batch: minimum, maximum, sum and sum of squares of the inputs themselves.
  const std::vector<at::Tensor>& moments() const { return moments_; }
  // int64 [kHistogramBins] on the CPU; waits for the device.
  at::Tensor histogram() const { return histogram_.to(at::kCPU); }
  BitWidth width() const { return width_; }
  std::int64_t values() const { return values_; }
  std::int64_t beyond() const;  // values outside `replaced`; waits for the device

 private:
  const Quantizer* quantizer_;
  BitWidth width_;
  const CalibratedRange* replaced_;
  at::Tensor lo_, hi_;
  std::vector<at::Tensor> means_, moments_;
  at::Tensor beyond_;     // int64 []; undefined: nothing is replaced
  at::Tensor histogram_;  // undefined: nothing is counted yet
  float top_ = 0.0F;      // of the histogram
  std::int64_t values_ = 0;
};

// Of one calibration, by the layer's index in PrecisionMap: the layers whose range is wanted.
using RangeObservers = std::map<std::int64_t, RangeObserver>;

}  // namespace qat
