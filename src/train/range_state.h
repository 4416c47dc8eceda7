// Calibrated ranges in a checkpoint: training's, which a resumed run goes on with, and those that the evaluation of
// this very state of training has of its own, from which `eval` makes the same table.
//   /quant/<layer>/activation/w<weight bits>a<activation bits>/{lo,hi,mean}
//   /quant/<layer>/weight/w<weight bits>/{lo,hi}                  of running ranges, and what trained ones began with
//   /evaluation/<evaluated bits>/<layer>/activation/{lo,hi,mean}             attributes of lo: batches, step
//   /evaluation/map_<hash of the map's text>/<layer>/activation/{lo,hi,mean}
// Older programs told ranges by <activation bits> alone: those hold for weights of any width.
#pragma once

#include <string>
#include <vector>

#include "dist/grid/process_grid.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/writer.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"

namespace qat {

struct StoredRange {
  std::string group;      // where its parts lie
  CalibratedRange range;  // in host memory
};

// Training's ranges and evaluation's, of all layers: on the ranks of the first replica, for rank 0 writes them.
// Collective; `model` is this rank's stage.
std::vector<StoredRange> ranges_of_all_stages(const Gpt2& model, const EvaluationRanges& evaluation,
                                              const dist::Grid& grid);
void write_ranges(CheckpointWriter& writer, const std::vector<StoredRange>& ranges);

// Collective: rank 0 reads and broadcasts; `reader` is null on other ranks. Puts training's ranges of
// this stage in force.
void load_ranges(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm);
// Those of what is to be evaluated, as far as the checkpoint has them.
EvaluationRanges load_evaluation_ranges(const CheckpointReader* reader, const Gpt2& model, dist::Communicator& comm,
                                        const std::vector<EvaluatedAt>& widths);

}  // namespace qat
