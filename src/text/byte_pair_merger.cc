#include "src/text/byte_pair_merger.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>
#include <unordered_map>

#include "kernels/common/error.h"

namespace qat {
namespace {

constexpr std::uint32_t kByteTokens = 256;  // merge r makes token kByteTokens + r

// Where pieces can merge, by rank. Merging makes only pairs of higher rank than its own (a token's parts are older than
// it), so ranks are taken once each, in rising order, and all places of a rank together.
class RankQueue {
 public:
  void push(std::uint32_t rank, std::uint32_t place) {
    std::vector<std::uint32_t>& places = places_[rank];
    if (places.empty()) ranks_.push(rank);
    places.push_back(place);
  }
  bool empty() const { return ranks_.empty(); }
  // The lowest rank and its places from left to right.
  std::pair<std::uint32_t, std::vector<std::uint32_t>> pop() {
    const std::uint32_t rank = ranks_.top();
    ranks_.pop();
    auto node = places_.extract(rank);
    std::vector<std::uint32_t> places = std::move(node.mapped());
    std::sort(places.begin(), places.end());
    return {rank, std::move(places)};
  }

 private:
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> places_;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ranks_;
};

}  // namespace

BytePairMerger::BytePairMerger(std::span<const Merge> merges) : merges_(merges.begin(), merges.end()) {
  slots_.resize(std::bit_ceil(2 * merges.size() + 2));
  mask_ = slots_.size() - 1;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t key =
        pair_key(static_cast<std::uint32_t>(merges[rank].left), static_cast<std::uint32_t>(merges[rank].right));
    std::size_t i = slot_of(key);
    while (slots_[i].pair != kNoPair) i = (i + 1) & mask_;
    slots_[i] = {key, static_cast<std::uint32_t>(rank)};
  }
}

void BytePairMerger::merge(std::string_view piece, std::vector<int>& out) const {
  if (piece.size() <= kShortBytes) {
    merge_short(piece, out);
  } else {
    merge_long(piece, out);
  }
}

void BytePairMerger::merge_short(std::string_view piece, std::vector<int>& out) const {
  QAT_CHECK(piece.size() <= kShortBytes, "merge_short takes short pieces");
  std::array<std::uint32_t, kShortBytes> ids;
  std::array<std::uint32_t, kShortBytes> ranks;  // of the pair (i, i + 1)
  std::size_t n = piece.size();
  for (std::size_t i = 0; i < n; ++i)
    ids[i] = static_cast<std::uint32_t>(id_of_byte(static_cast<unsigned char>(piece[i])));
  for (std::size_t i = 0; i + 1 < n; ++i) ranks[i] = rank_of(ids[i], ids[i + 1]);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i) best = ranks[i] < ranks[best] ? i : best;
    if (ranks[best] == kNoRank) break;
    ids[best] = kByteTokens + ranks[best];
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i - 1] = ranks[i];
    }
    --n;
    if (best > 0) ranks[best - 1] = rank_of(ids[best - 1], ids[best]);
    if (best + 1 < n) ranks[best] = rank_of(ids[best], ids[best + 1]);
  }
  for (std::size_t i = 0; i < n; ++i) out.push_back(static_cast<int>(ids[i]));
}

void BytePairMerger::merge_long(std::string_view piece, std::vector<int>& out) const {
  if (piece.size() >= kNoRank) {
    throw Error(ErrorKind::kData, fmt::format("text holds a run of {} bytes without a break; the byte-pair tokenizer "
                                              "takes at most {}: is it text?",
                                              piece.size(), kNoRank - 1));
  }
  // Tokens are named by the place of their first byte. id[place]: the token that starts there, kDead inside a token.
  // start[place]: where the token that ends at `place` starts (read only at the last byte of a token).
  constexpr std::uint32_t kDead = 0xFFFFFFFFU;
  const auto n = static_cast<std::uint32_t>(piece.size());
  std::vector<std::uint32_t> id(n), start(n), length(n, 1);
  for (std::uint32_t i = 0; i < n; ++i) {
    id[i] = static_cast<std::uint32_t>(id_of_byte(static_cast<unsigned char>(piece[i])));
    start[i] = i;
  }
  RankQueue queue;
  const auto push_pair = [&](std::uint32_t left, std::uint32_t right) {
    if (const std::uint32_t rank = rank_of(id[left], id[right]); rank != kNoRank) queue.push(rank, left);
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) push_pair(i, i + 1);
  while (!queue.empty()) {
    const auto [rank, places] = queue.pop();
    const auto left_id = static_cast<std::uint32_t>(merges_[rank].left);
    const auto right_id = static_cast<std::uint32_t>(merges_[rank].right);
    for (const std::uint32_t left : places) {
      if (id[left] != left_id) continue;  // merged since it was queued
      const std::uint32_t right = left + length[left];
      if (right >= n || id[right] != right_id) continue;
      const std::uint32_t after = right + length[right];
      id[left] = kByteTokens + rank;
      id[right] = kDead;
      length[left] = after - left;
      start[after - 1] = left;
      if (left > 0) push_pair(start[left - 1], left);
      if (after < n) push_pair(left, after);
    }
  }
  for (std::uint32_t i = 0; i < n; i += length[i]) out.push_back(static_cast<int>(id[i]));
}

}  // namespace qat
