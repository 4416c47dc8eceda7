#include "dist/pipeline/stage_cut.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
// Sums of the same costs in another order differ by less.
constexpr double kSame = 1e-9;

// Costs of contiguous pieces, with the embedding and the head where they belong.
class PieceCosts {
 public:
  explicit PieceCosts(const LayerCosts& costs) : costs_(costs), sums_(costs.blocks.size() + 1) {
    for (std::size_t i = 0; i < costs.blocks.size(); ++i) {
      QAT_CHECK(costs.blocks[i] >= 0.0, "no block costs less than nothing");
      sums_[i + 1] = sums_[i] + costs.blocks[i];
    }
  }
  std::int64_t blocks() const { return std::ssize(costs_.blocks); }
  double of(std::int64_t first, std::int64_t last) const {
    return sums_[static_cast<std::size_t>(last)] - sums_[static_cast<std::size_t>(first)] +
           (first == 0 ? costs_.embedding : 0.0) + (last == blocks() ? costs_.head : 0.0);
  }

 private:
  const LayerCosts& costs_;
  std::vector<double> sums_;
};

// The cut into `pieces` with the least `total`, where cost(first, last) of a piece joins what came before it by `join`;
// a piece may cost kNever.
template <typename Cost, typename Join>
std::pair<double, StageCut> best_cut(std::int64_t blocks, std::int64_t pieces, Cost cost, Join join) {
  struct Best {
    double total = kNever;
    std::int64_t first = 0;  // of the last piece
  };
  const auto at = [&](std::int64_t piece, std::int64_t end) {
    return static_cast<std::size_t>(piece * (blocks + 1) + end);
  };
  std::vector<Best> best(static_cast<std::size_t>((pieces + 1) * (blocks + 1)));
  best[at(0, 0)].total = 0.0;
  for (std::int64_t piece = 1; piece <= pieces; ++piece)
    for (std::int64_t end = piece; end <= blocks - (pieces - piece); ++end)
      for (std::int64_t first = piece - 1; first < end; ++first) {
        const double before = best[at(piece - 1, first)].total;
        if (before == kNever) continue;
        const double total = join(before, cost(first, end));
        if (total < best[at(piece, end)].total) best[at(piece, end)] = {.total = total, .first = first};
      }
  StageCut cut(static_cast<std::size_t>(pieces));
  std::int64_t end = blocks;
  for (std::int64_t piece = pieces; piece > 0; --piece) {
    cut[static_cast<std::size_t>(piece - 1)] = best[at(piece, end)].first;
    end = cut[static_cast<std::size_t>(piece - 1)];
  }
  return {best[at(pieces, blocks)].total, std::move(cut)};
}

StageCut even_cut(const PieceCosts& costs, std::int64_t pieces) {
  const auto cost = [&](std::int64_t first, std::int64_t last) { return costs.of(first, last); };
  const double slowest =
      best_cut(costs.blocks(), pieces, cost, [](double a, double b) { return std::max(a, b); }).first;
  const auto squares = [&](std::int64_t first, std::int64_t last) {
    const double piece = costs.of(first, last);
    return piece <= slowest * (1.0 + kSame) ? piece * piece : kNever;
  };
  return best_cut(costs.blocks(), pieces, squares, [](double a, double b) { return a + b; }).second;
}

// How good a cut is; less is better.
struct Merit {
  double slowest = kNever;
  double squares = kNever;  // of pieces

  bool better_than(const Merit& other) const {
    if (slowest < other.slowest * (1.0 - kSame)) return true;
    return slowest <= other.slowest * (1.0 + kSame) && squares < other.squares * (1.0 - kSame);
  }
};

Merit merit_of(const LayerCosts& costs, const StageCut& cut, int stages) {
  const std::vector<double> of_stages = stage_costs(costs, cut, stages);
  Merit merit{.slowest = *std::max_element(of_stages.begin(), of_stages.end()), .squares = 0.0};
  for (const double piece : piece_costs(costs, cut)) merit.squares += piece * piece;
  return merit;
}

// The cut after a block has gone from one piece to another; empty if nothing would be left of the first.
StageCut with_block_moved(const StageCut& cut, std::int64_t blocks, std::size_t from, std::size_t to) {
  const std::int64_t end = from + 1 < cut.size() ? cut[from + 1] : blocks;
  if (end - cut[from] < 2) return {};
  StageCut moved = cut;
  for (std::size_t i = from + 1; i <= to; ++i) --moved[i];
  for (std::size_t i = to + 1; i <= from; ++i) ++moved[i];
  return moved;
}

}  // namespace

StageCut cut_stages(const LayerCosts& costs, int stages, int chunks) {
  const std::int64_t pieces = std::int64_t{stages} * chunks;
  const PieceCosts of_pieces(costs);
  QAT_CHECK(stages >= 1 && chunks >= 1 && pieces <= of_pieces.blocks(), "every piece has a block at least");
  StageCut cut = even_cut(of_pieces, pieces);
  if (chunks == 1) return cut;
  Merit merit = merit_of(costs, cut, stages);
  for (bool better = true; better;) {
    better = false;
    const StageCut now = cut;
    for (std::size_t from = 0; from < now.size(); ++from)
      for (std::size_t to = 0; to < now.size(); ++to) {
        StageCut moved = from == to ? StageCut() : with_block_moved(now, of_pieces.blocks(), from, to);
        if (moved.empty()) continue;
        const Merit of_moved = merit_of(costs, moved, stages);
        if (!of_moved.better_than(merit)) continue;
        cut = std::move(moved);
        merit = of_moved;
        better = true;
      }
  }
  return cut;
}

std::vector<double> piece_costs(const LayerCosts& costs, const StageCut& cut) {
  const PieceCosts of_pieces(costs);
  std::vector<double> pieces(cut.size());
  for (std::size_t i = 0; i < cut.size(); ++i)
    pieces[i] = of_pieces.of(cut[i], i + 1 < cut.size() ? cut[i + 1] : of_pieces.blocks());
  return pieces;
}

std::vector<double> stage_costs(const LayerCosts& costs, const StageCut& cut, int stages) {
  const std::vector<double> pieces = piece_costs(costs, cut);
  std::vector<double> of_stages(static_cast<std::size_t>(stages));
  for (std::size_t i = 0; i < pieces.size(); ++i) of_stages[i % of_stages.size()] += pieces[i];
  return of_stages;
}

}  // namespace qat::dist
