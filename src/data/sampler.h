// Which tokens a training sample is: a pure function of (seed, n), n = step * batch + index in the global batch
// counting all samples of a run. It knows no ranks, so any number of them sees the same batches, and a resumed run goes
// on where it stopped without any saved state.
//
// A window is `sequence_length` = T inputs and as many targets, one token further on: T + 1 tokens of one segment. The
// windows of a segment start T tokens apart, so no token is a target twice in an epoch. Each epoch visits every window
// once, in its own order (a keyed permutation), and moves all window starts of a segment by its own phase, so that
// epochs do not cut the text at the same places:
//   a segment of L tokens has W = (L - 1) / T windows and S = (L - 1) - W T tokens over;
//   W <  16: W windows, phase 0..S;
//   W >= 16: W - 1 windows, phase 0..T - 1 (leaving one window out gives room for every phase).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/common/philox.h"
#include "src/data/sample_source.h"
#include "src/data/token_source.h"

namespace qat {

// A permutation of 0 .. size - 1 that is computed, not stored: a Feistel network of Philox rounds over the next power
// of four, walked until it lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
std::uint64_t permuted(std::uint64_t index, std::uint64_t size, kernels::RngKey key);

class Sampler final : public SampleSource {
 public:
  // The source must outlive the sampler. Throws kData if no segment is long enough for a window.
  Sampler(const TokenSource& source, std::int64_t sequence_length, std::uint64_t seed);

  std::int64_t windows_per_epoch() const override { return windows_; }
  std::int64_t sequence_length() const override { return sequence_length_; }
  std::int64_t targets_per_sample() const override { return sequence_length_; }

  // targets[i] == inputs[i + 1].
  void sample(std::uint64_t n, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const override;
  // All, for every token of a text is predicted.
  std::int64_t valid_targets(std::int64_t samples) const override { return samples * sequence_length_; }
  SplitIdentity identity() const override { return identity_of(source_); }

  // Where sample n starts in the source: the segment, and the first input's place in it.
  struct Place {
    std::size_t segment;
    std::int64_t offset;
  };
  Place place(std::uint64_t n) const;

 private:
  struct SegmentWindows {
    std::size_t segment;
    std::int64_t first;   // number of its first window among all of an epoch
    std::int64_t phases;  // phase is 0 .. phases - 1
  };

  const TokenSource& source_;
  std::int64_t sequence_length_;
  std::uint64_t seed_;
  std::vector<SegmentWindows> segments_;  // those with at least one window
  std::int64_t windows_ = 0;
};

}  // namespace qat
