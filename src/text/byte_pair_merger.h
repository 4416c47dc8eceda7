// The merge loop of byte-pair encoding: a piece starts as its bytes; while any two neighbours can merge, the pair with
// the lowest rank does, leftmost first (Sennrich et al., arXiv:1508.07909; GPT-2's encoder.py).
//
// Two forms with the same result: a scan over an array for short pieces, O(n^2), and a queue for long ones, O(n log n)
// time and up to 20 bytes of memory a byte, so that a piece of 100 MB (one unbroken line of letters) is no trap.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/text/byte_pair_vocabulary.h"

namespace qat {

class BytePairMerger {
 public:
  explicit BytePairMerger(std::span<const Merge> merges);

  // Appends the ids of one piece; any bytes, fewer than 2^32 (else kData).
  void merge(std::string_view piece, std::vector<int>& out) const;

  // The two forms, for tests; `merge` picks by length.
  void merge_short(std::string_view piece, std::vector<int>& out) const;
  void merge_long(std::string_view piece, std::vector<int>& out) const;

  static constexpr std::size_t kShortBytes = 64;

 private:
  static constexpr std::uint32_t kNoRank = 0xFFFFFFFFU;
  struct Slot {
    std::uint64_t pair = kNoPair;
    std::uint32_t rank = kNoRank;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};  // ids are below 2^31, so no pair has this key

  static std::uint64_t pair_key(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32 | right; }
  std::uint32_t rank_of(std::uint32_t left, std::uint32_t right) const {
    const std::uint64_t key = pair_key(left, right);
    for (std::size_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].pair == key) return slots_[i].rank;
      if (slots_[i].pair == kNoPair) return kNoRank;
    }
  }
  std::size_t slot_of(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & mask_;
  }

  std::vector<Merge> merges_;
  std::vector<Slot> slots_;  // pair -> rank, open addressing, at most half full
  std::size_t mask_ = 0;
};

}  // namespace qat
