#include "src/quant/groupwise_method.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <mutex>

#include "kernels/common/error.h"

namespace qat {
namespace {

using kernels::Axis;

constexpr double kSmallest = 1e-4, kLargest = 1e4;  // scale

// A range is scales in `lo` and zero points in `hi`, both trained as floats.
class GroupwiseMethod final : public QuantMethod {
 public:
  explicit GroupwiseMethod(std::int64_t group_size) : group_size_(group_size) {}

  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {.numbers_per_group = 2, .group_size = group_size_}; }
  GradientRule gradient_rule() const override { return GradientRule::kTrained; }

  std::vector<TrainedMember> trained_members(std::int64_t rows, std::int64_t cols) const override {
    const std::vector<std::int64_t> shape = {rows, cols / group_of(cols)};
    return {{.name = "scale", .member = &CalibratedRange::lo, .shape = shape},
            {.name = "zero", .member = &CalibratedRange::hi, .shape = shape}};
  }

  CalibratedRange measure(const at::Tensor& x, Axis /*axis*/, BitWidth width) const override {
    const at::Tensor groups = grouped(x), least = groups.amin(1), extent = groups.amax(1) - least;
    const at::Tensor scale = (extent / width.level_max()).clamp_(kSmallest, kLargest);
    return {.lo = scale, .hi = (least / scale).clamp_(-kLargest, kLargest).neg_().round_(), .mean = {}, .batches = 1};
  }

  at::Tensor step_sizes(const CalibratedRange& range, BitWidth /*width*/) const override {
    return range.lo.reshape({-1}).clamp(kSmallest, kLargest);
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis /*axis*/, BitWidth width,
                        const CalibratedRange& range) const override {
    const Codes codes = codes_of(x, width, range);
    return (codes.unclamped.clamp(0, width.level_max()) - codes.zero).mul_(codes.scale).view(x.sizes());
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth width) const override {
    const at::Tensor unclamped = codes_of(x, width, range).unclamped;
    return ((unclamped < 0) | (unclamped > width.level_max())).sum();
  }

  QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, Axis /*axis*/, BitWidth width,
                          const CalibratedRange& range, std::int64_t /*sharing*/) const override {
    const Codes codes = codes_of(x, width, range);
    const at::Tensor clamped = codes.unclamped.clamp(0, width.level_max()), inside = codes.unclamped == clamped;
    const at::Tensor g = grouped(dy.to(at::kFloat));
    // Between the ends rne(x / s) - x / s, at an end what is left of the code.
    const at::Tensor of_scale =
        at::where(inside, codes.unclamped - codes.zero - grouped(x) / codes.scale, clamped - codes.zero);
    const at::Tensor of_zero = (g * inside.logical_not()).sum(1).neg_().mul_(codes.scale.squeeze(1));
    return {.x = (g * inside).view(x.sizes()), .trained = {(g * of_scale).sum(1), of_zero}};
  }

 private:
  struct Codes {
    at::Tensor scale, zero;  // [groups, 1], as they are used
    at::Tensor unclamped;    // [groups, group size]
  };

  std::int64_t group_of(std::int64_t cols) const {
    const std::int64_t size = group_size_ == 0 ? cols : group_size_;
    QAT_CHECK(cols % size == 0, "groups divide a row");
    return size;
  }
  at::Tensor grouped(const at::Tensor& x) const { return x.reshape({-1, group_of(x.size(-1))}); }
  Codes codes_of(const at::Tensor& x, BitWidth width, const CalibratedRange& range) const {
    const at::Tensor scale = range.lo.reshape({-1, 1}).clamp(kSmallest, kLargest);
    const at::Tensor zero = range.hi.reshape({-1, 1}).round().clamp_(0, width.level_max());
    return {.scale = scale, .zero = zero, .unclamped = (grouped(x) / scale).round_().add_(zero)};
  }

  std::int64_t group_size_;
};

}  // namespace

const QuantMethod& groupwise_method(std::int64_t group_size) {
  static std::mutex mutex;
  static std::map<std::int64_t, std::unique_ptr<const GroupwiseMethod>> methods;
  const std::lock_guard lock(mutex);
  std::unique_ptr<const GroupwiseMethod>& method = methods[group_size];
  if (!method) method = std::make_unique<const GroupwiseMethod>(group_size);
  return *method;
}

}  // namespace qat
