// What data-parallel ranks send each other once an update, and how long it takes: gradients on the wire of comm.wire
// and updated weights, on one level or two, as dist/grad sends them.
//
// A message takes bytes / rate, and each of the messages that a call sends one after the other a latency: p - 1 of them
// among p ranks, twice the logarithm for the sums of a few numbers that scales are agreed on by.
#pragma once

#include <vector>

#include "src/config/run_config.h"
#include "src/cost/device_rates.h"
#include "src/memory/pass_shape.h"

namespace qat {

// The ranks that share a stage's parameters out, equally many on each node.
struct RankGroup {
  int ranks = 1;
  int nodes = 1;

  int here() const { return ranks / nodes; }
};

// A rank's trained parameters, elements, by how they travel; with the gaps between tensors (dist/grad/flat_layout.h).
struct TrainedElems {
  double linear = 0.0;    // the blocks' linear layers: may come back as codes
  double rows = 0.0;      // of those
  double adapters = 0.0;  // gradients are encoded, values are not
  double tables = 0.0;    // embeddings and an untied head: the same
  double vectors = 0.0;   // norms and biases: never encoded

  double total() const { return linear + adapters + tables + vectors; }
};
TrainedElems trained_elems(const RunConfig& config, const StagePart& part);

// By one rank.
struct Sent {
  double bytes = 0.0;  // in all
  double seconds_in_node = 0.0;
  double seconds_between_nodes = 0.0;

  double seconds() const { return seconds_in_node + seconds_between_nodes; }
  Sent& operator+=(const Sent& other);
};

// Gradients: `coded` elements of matrices in so many calls, and `exact` ones.
Sent gradients_sent(const CommConfig& comm, const RankGroup& group, const Links& links, double coded, double calls,
                    double exact);

// How an update's passes read the linear layers' weights: for each of their precision maps the bits of the widest
// codes; empty: fp32 travels (src/train/step_passes.cc).
using CodeBitsOfMaps = std::vector<int>;
CodeBitsOfMaps code_bits_of(const RunConfig& config, bool cuda, const std::vector<const PrecisionMap*>& maps);

// Updated values, to all ranks that do not own them.
Sent weights_sent(const RankGroup& group, const Links& links, const TrainedElems& elems, const CodeBitsOfMaps& bits);

// Seconds that backward takes, of the pass whose gradients complete the sums, in its order: the head, then the
// blocks of this rank from the last to the first, then the embeddings.
struct BackwardTimes {
  double head_s = 0.0;
  std::vector<double> blocks_s;
  double embedding_s = 0.0;
};

// Seconds of an update's exchange of gradients.
struct GradientTime {
  double bytes = 0.0;     // that a rank sends
  double alone_s = 0.0;   // if nothing runs beside it
  double hidden_s = 0.0;  // of it, that costs the step nothing

  double added() const { return alone_s - hidden_s; }
};

// overlapped, beside backward (comm.overlap on GPUs): a block's gradients go as soon as they are there, one after the
// other, and embeddings, norms and biases last. What moves between nodes then costs nothing until backward has ended;
// what moves within a node slows backward by as much as it takes, for copies and sums want the same multiprocessors
// (measured on two GPUs: benchmarks/README.md).
GradientTime gradient_time(const CommConfig& comm, const RankGroup& group, const Links& links,
                           const TrainedElems& elems, const BackwardTimes& backward, bool overlapped);

}  // namespace qat
