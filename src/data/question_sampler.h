// The windows of questions as a run's samples: each epoch visits all of them once, in an order of its own (a keyed
// permutation, sampler.h).
#pragma once

#include "src/data/question_windows.h"
#include "src/data/sample_source.h"

namespace qat {

class QuestionSampler final : public SampleSource {
 public:
  // The windows must outlive the sampler.
  QuestionSampler(const QuestionWindows& windows, std::uint64_t seed) : windows_(windows), seed_(seed) {}

  std::int64_t windows_per_epoch() const override { return std::ssize(windows_.windows()); }
  std::int64_t sequence_length() const override { return windows_.layout().sequence_length; }
  std::int64_t targets_per_sample() const override { return kSpanTargetNumbers; }
  // targets: a SpanTarget's numbers.
  void sample(std::uint64_t n, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const override;
  // One: that of the answer's two ends.
  std::int64_t valid_targets(std::int64_t samples) const override { return samples; }
  SplitIdentity identity() const override { return windows_.identity(); }

  // Which of the windows sample n is.
  std::size_t window_of(std::uint64_t n) const;

 private:
  const QuestionWindows& windows_;
  std::uint64_t seed_;
};

}  // namespace qat
