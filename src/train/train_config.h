// The loop. JSON sections "run", "train" and "parallel".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dist/pipeline/schedule.h"
#include "src/base/named_enum.h"

namespace qat {

struct RunSection {
  std::string dir = "runs/default";  // everything a run writes goes below this folder
  std::uint64_t seed = 1;            // of initialisation, sampling, dropout and stochastic rounding
  std::string resume = "auto";       // auto: from the newest checkpoint in dir, if any; never: refuse a folder that has
                                     // one; else: a checkpoint folder
};

enum class OnOutOfMemory : unsigned char { kStop, kSmallerMicroBatch };
template <>
struct EnumNames<OnOutOfMemory> {
  static constexpr std::array names{"stop", "smaller_micro_batch"};
};

enum class Accumulate : unsigned char { kTree, kRunning };
template <>
struct EnumNames<Accumulate> {
  static constexpr std::array names{"tree", "running"};
};

// What a step is made of (src/train/recipe.h).
enum class Recipe : unsigned char { kCpt, kSpnet, kPerMap, kSp, kInstantnet };
template <>
struct EnumNames<Recipe> {
  static constexpr std::array names{"cpt", "spnet", "per_map", "sp", "instantnet"};
};

// Which maps recipe sp draws for a step: each once in a round of them all; or the narrowest in every step (the sandwich
// rule of Yu & Huang, arXiv:1903.05134: always the smallest and the largest, which is the teacher at 32 bits, and some
// between), and the others so.
enum class StudentDraw : unsigned char { kRounds, kSandwich };
template <>
struct EnumNames<StudentDraw> {
  static constexpr std::array names{"rounds", "sandwich"};
};

struct TrainConfig {
  Recipe recipe = Recipe::kCpt;  // cpt: a step has the schedule's width; spnet: all of quant.maps (else of
                                 // quant.widths), whose losses are one update; per_map: an update for each; sp:
                                 // some of them, drawn at random, one update; instantnet: as spnet, widest first
  int students = 2;              // sp: maps or widths below 32 that a step trains
  StudentDraw student_draw = StudentDraw::kRounds;
  std::int64_t steps = 1000;          // steps; each has a batch, and but for per_map one update
  std::int64_t batch_size = 32;       // sequences a step, over all ranks
  std::int64_t micro_batch_size = 4;  // sequences a forward/backward pass; batch_size / (micro_batch_size * ranks)
                                      // passes are accumulated
  Accumulate accumulate = Accumulate::kTree;  // how a rank sums the gradients of its passes: as a balanced tree that
                                              // the ranks continue, or one after the other in one buffer
  int max_skips = 10;                         // stop (exit 8) after so many skipped steps in a row
  double spike_deviations = 0.0;    // skip a step whose loss is so many standard deviations above the running mean of
                                    // its width; 0: never
  std::int64_t spike_window = 100;  // steps that mean and deviation look back over; none is skipped before so many
  std::int64_t replica_check_every = 100;  // steps between comparisons of the ranks' parameters; 0: only in checkpoints
  OnOutOfMemory on_out_of_memory = OnOutOfMemory::kStop;  // stop (exit 5), or do the step again in smaller passes
  std::int64_t log_every = 1;                             // steps between metrics lines
};

// dist/pipeline/schedule.h says what they are.
template <>
struct EnumNames<dist::PipelineSchedule> {
  static constexpr std::array names{"gpipe", "1f1b", "interleaved"};
};

// How hidden states and their gradients go from stage to stage.
enum class StageTransfer : unsigned char { kValues, kCodes };
template <>
struct EnumNames<StageTransfer> {
  static constexpr std::array names{"values", "codes"};
};

struct ParallelConfig {
  int data = 0;      // data-parallel ranks; 0: the world size / pipeline
  int pipeline = 1;  // pipeline stages; more than one needs a build that has them
  dist::PipelineSchedule schedule = dist::PipelineSchedule::kOneFOneB;
  int chunks = 1;        // pieces of the model a stage; more than one for the interleaved schedule
  std::vector<int> cut;  // the first block of every piece: [pipeline * chunks]; empty: cut by cost
  StageTransfer transfer = StageTransfer::kValues;  // between stages, in training
  std::int64_t timeline_step = 0;                   // the step whose timeline is written; 0: none
  int threads_per_rank = 0;                         // CPU threads; 0: this node's cores / its ranks, at least 1
};

}  // namespace qat
