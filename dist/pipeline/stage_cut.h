// Where a model is cut into the stages of a pipeline: the cut whose slowest stage is fastest, from what its parts cost.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/pipeline/schedule.h"

namespace qat::dist {

// What the parts of a model cost for one micro-batch, all in the same unit (say, seconds forward and backward).
struct LayerCosts {
  std::vector<double> blocks;
  double embedding = 0.0;  // goes with the first block
  double head = 0.0;       // the last norm, the output projection and the loss: go with the last block
};

// The first block of every piece, ascending from 0: [stages * chunks]. Piece i is chunk i / stages of stage i % stages.
using StageCut = std::vector<std::int64_t>;

// The first blocks of all pieces, so that the slowest stage is as fast as can be; of such cuts the one whose pieces are
// most alike (least sum of squares), which wastes least where a stage waits for a single piece.
//
// With one chunk a stage: exact, by dynamic programming over contiguous cuts, in O(stages * blocks^2). With several, a
// stage's pieces are apart: from the cut whose slowest piece is fastest, one block at a time goes from one piece to
// another (those between move along) as long as that helps. That is exact, too, where blocks cost alike.
//
// Every piece has a block at least: stages * chunks <= blocks, which the configuration's check makes sure of.
StageCut cut_stages(const LayerCosts& costs, int stages, int chunks = 1);

// What each stage costs: [stages]. And each piece: [stages * chunks].
std::vector<double> stage_costs(const LayerCosts& costs, const StageCut& cut, int stages);
std::vector<double> piece_costs(const LayerCosts& costs, const StageCut& cut);

}  // namespace qat::dist
