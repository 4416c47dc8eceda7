#include "kernels/quant/range_cpu.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace qat::kernels {
namespace {

// Floats are compared as integers whose order is theirs: `key` maps -NaN < -inf < ... < -0 < +0 < ... < inf < NaN onto
// increasing int32. An integer minimum and maximum then find the range and anything non-finite at once, vectorize, and
// do not depend on the order in which elements are met.
constexpr std::int32_t kSignless = 0x7FFFFFFF;
constexpr std::int32_t kInfinityKey = 0x7F800000;
constexpr std::int32_t kNegativeInfinityKey = -kInfinityKey - 1;

QAT_ALWAYS_INLINE std::int32_t key_of(float x) {
  const std::int32_t bits = std::bit_cast<std::int32_t>(x);
  return bits ^ ((bits >> 31) & kSignless);
}

float value_of(std::int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & kSignless)); }

struct KeyRange {
  std::int32_t lo = std::numeric_limits<std::int32_t>::max();
  std::int32_t hi = std::numeric_limits<std::int32_t>::min();

  void add(const KeyRange& other) {
    lo = std::min(lo, other.lo);
    hi = std::max(hi, other.hi);
  }
  bool finite() const { return lo > kNegativeInfinityKey && hi < kInfinityKey; }
};

// Elements the range is taken of: signed values, magnitudes, or magnitudes above `floor_key` only (the others are
// given to the minimum as the largest key and to the maximum as the smallest).
enum class Elements { kSigned, kMagnitude, kMagnitudeAbove };

template <Elements kElements>
QAT_ALWAYS_INLINE void add_element(float x, std::int32_t floor_key, std::int32_t& lo, std::int32_t& hi) {
  std::int32_t low = key_of(x), high = low;
  if constexpr (kElements != Elements::kSigned) low = high = std::bit_cast<std::int32_t>(x) & kSignless;
  if constexpr (kElements == Elements::kMagnitudeAbove) {
    low = low > floor_key ? low : std::numeric_limits<std::int32_t>::max();
    high = high > floor_key ? high : std::numeric_limits<std::int32_t>::min();
  }
  lo = low < lo ? low : lo;
  hi = high > hi ? high : hi;
}

template <Elements kElements>
QAT_ALWAYS_INLINE KeyRange span_body(const float* __restrict x, std::int64_t n, std::int32_t floor_key) {
  KeyRange range;
  std::int32_t lo = range.lo, hi = range.hi;
  for (std::int64_t i = 0; i < n; ++i) add_element<kElements>(x[i], floor_key, lo, hi);
  return {lo, hi};
}

template <Elements kElements>
QAT_ALWAYS_INLINE void columns_body(const float* __restrict x, std::int64_t n, std::int32_t floor_key,
                                    std::int32_t* __restrict lo, std::int32_t* __restrict hi) {
  for (std::int64_t i = 0; i < n; ++i) add_element<kElements>(x[i], floor_key, lo[i], hi[i]);
}

constexpr std::int64_t kBlockElems = 65536;  // of the whole-tensor passes
constexpr std::int64_t kGrainElems = 16384;  // of one range of the row passes
constexpr std::int64_t kColumnGrain = 64;
constexpr std::int64_t kColumnStripe = 1024;  // columns whose running ranges stay in the first-level cache

// Splits the matrix by `axis` and calls emit(group, range) once per group.
template <Elements kElements, typename Emit>
void for_group_ranges(const Exec& exec, const Matrix<const float>& x, Axis axis, std::int32_t floor_key, CpuIsa isa,
                      const Emit& emit) {
  const auto span_range = IsaClones<span_body<kElements>>::pick(isa);
  if (axis == Axis::kTensor) {
    const std::int64_t blocks = (x.size() + kBlockElems - 1) / kBlockElems;
    std::vector<KeyRange> partial(static_cast<std::size_t>(blocks));
    exec.for_ranges(blocks, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        partial[static_cast<std::size_t>(i)] =
            span_range(x.data + i * kBlockElems, std::min(kBlockElems, x.size() - i * kBlockElems), floor_key);
    });
    KeyRange whole;
    for (const KeyRange& range : partial) whole.add(range);
    emit(0, whole);
  } else if (axis == Axis::kRow) {
    exec.for_ranges(x.rows, std::max<std::int64_t>(1, kGrainElems / x.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) emit(r, span_range(x.row(r), x.cols, floor_key));
    });
  } else {
    const auto add_columns = IsaClones<columns_body<kElements>>::pick(isa);
    exec.for_ranges(x.cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; c += kColumnStripe) {
        const std::int64_t n = std::min(kColumnStripe, end - c);
        std::array<std::int32_t, kColumnStripe> lo, hi;
        lo.fill(KeyRange{}.lo);
        hi.fill(KeyRange{}.hi);
        for (std::int64_t r = 0; r < x.rows; ++r) add_columns(x.row(r) + c, n, floor_key, lo.data(), hi.data());
        for (std::int64_t i = 0; i < n; ++i)
          emit(c + i, KeyRange{lo[static_cast<std::size_t>(i)], hi[static_cast<std::size_t>(i)]});
      }
    });
  }
}

float log2_of(float magnitude) { return static_cast<float>(std::log2(static_cast<double>(magnitude))); }

// Sum and count of log2|x| over the elements above eps; a NaN or an infinity leaves the sum non-finite.
struct LogSum {
  double sum = 0.0;
  std::int64_t count = 0;

  void add(float x, float eps) {
    const float magnitude = std::fabs(x);
    if (magnitude <= eps) return;
    sum += static_cast<double>(std::log2(magnitude));
    ++count;
  }
  float mean(float eps) const {
    if (count == 0) return log2_of(eps);
    return std::isfinite(sum) ? static_cast<float>(sum / static_cast<double>(count))
                              : std::numeric_limits<float>::quiet_NaN();
  }
};

LogSum log_sum(const float* x, std::int64_t n, float eps) {
  LogSum total;
  for (std::int64_t i = 0; i < n; ++i) total.add(x[i], eps);
  return total;
}

}  // namespace

void min_max_cpu(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs,
                 CpuIsa isa) {
  if (x.size() == 0) return;
  for_group_ranges<Elements::kSigned>(exec, x, axis, /*floor_key=*/0, isa, [&](std::int64_t g, const KeyRange& range) {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    // Adding +0 turns -0 into +0.
    mins[static_cast<std::size_t>(g)] = range.finite() ? value_of(range.lo) + 0.0F : kNaN;
    maxs[static_cast<std::size_t>(g)] = range.finite() ? value_of(range.hi) + 0.0F : kNaN;
  });
}

void log_range_cpu(const Exec& exec, Matrix<const float> x, Axis axis, LogRule rule, std::span<float> log_mins,
                   std::span<float> log_maxs, CpuIsa isa) {
  if (x.size() == 0) return;
  const std::int32_t eps_key = key_of(rule.eps);
  // log2 keeps the order, so it is taken of the two ends only.
  const auto emit = [&](std::int64_t g, const KeyRange& range) {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    const bool none = range.lo > range.hi;  // nothing above eps
    const bool finite = none || range.hi < kInfinityKey;
    const std::int32_t lo = none ? eps_key : std::max(range.lo, eps_key);
    const std::int32_t hi = none ? eps_key : std::max(range.hi, eps_key);
    log_mins[static_cast<std::size_t>(g)] = finite ? log2_of(value_of(lo)) : kNaN;
    log_maxs[static_cast<std::size_t>(g)] = finite ? log2_of(value_of(hi)) : kNaN;
  };
  if (rule.masked)
    for_group_ranges<Elements::kMagnitudeAbove>(exec, x, axis, eps_key, isa, emit);
  else
    for_group_ranges<Elements::kMagnitude>(exec, x, axis, eps_key, isa, emit);
}

void log_mean_cpu(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means) {
  if (x.size() == 0) return;
  if (axis == Axis::kTensor) {
    const std::int64_t blocks = (x.size() + kBlockElems - 1) / kBlockElems;
    std::vector<LogSum> partial(static_cast<std::size_t>(blocks));
    exec.for_ranges(blocks, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        partial[static_cast<std::size_t>(i)] =
            log_sum(x.data + i * kBlockElems, std::min(kBlockElems, x.size() - i * kBlockElems), eps);
    });
    LogSum whole;
    for (const LogSum& part : partial) {
      whole.sum += part.sum;
      whole.count += part.count;
    }
    means[0] = whole.mean(eps);
  } else if (axis == Axis::kRow) {
    exec.for_ranges(x.rows, std::max<std::int64_t>(1, kGrainElems / x.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        means[static_cast<std::size_t>(r)] = log_sum(x.row(r), x.cols, eps).mean(eps);
    });
  } else {
    exec.for_ranges(x.cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<LogSum> sums(static_cast<std::size_t>(end - begin));
      for (std::int64_t r = 0; r < x.rows; ++r)
        for (std::int64_t c = begin; c < end; ++c) sums[static_cast<std::size_t>(c - begin)].add(x.at(r, c), eps);
      for (std::int64_t c = begin; c < end; ++c)
        means[static_cast<std::size_t>(c)] = sums[static_cast<std::size_t>(c - begin)].mean(eps);
    });
  }
}

}  // namespace qat::kernels
