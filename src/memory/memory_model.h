// How much memory a rank of a run will take, from the configuration alone: no model, device or file is opened. What is
// counted, and the formulas, follow the code that allocates; the constants are measured (benchmarks/README.md).
//
// A rank holds some things all the time (parameters, gradient sums, optimizer, weights as codes) and others at their
// moment (the activations of its passes; the loss; evaluation; a checkpoint's blocks). The estimate is that
// of the worst moment.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/config/run_config.h"
#include "src/memory/pass_shape.h"

namespace qat {

// Where a run's ranks are.
struct RankLayout {
  bool cuda = false;        // each rank has a GPU
  int ranks = 1;            // with the same part of the model: data parallel
  int ranks_here = 1;       // on this host
  int threads = 1;          // passes of a rank side by side, on CPUs
  bool training = true;     // else the run only evaluates
  StagePart part{};         // of the model, that the rank has
  bool range_test = false;  // whatever the schedule's bounds are; with bounds of "auto" a run makes one anyway
};

struct MemoryConsumer {
  std::string name;  // a noun, as in "activations"
  std::int64_t bytes = 0;
};

struct MemoryEstimate {
  std::string moment;                     // when it is most: "a training step", "evaluation", ...
  std::vector<MemoryConsumer> consumers;  // at that moment, the largest first

  std::int64_t total() const;
};

// What a process takes before it has a model, in main memory: code, LibTorch's tables, MPI. For plans; a running
// process knows better.
std::int64_t program_bytes(bool cuda);

// What CUDA has taken already when a process can ask how much is free.
constexpr std::int64_t kCudaContextBytes = std::int64_t{512} << 20;

// One rank's main memory. `program`: what the process takes anyway.
MemoryEstimate host_memory_needed(const RunConfig& config, const RankLayout& layout, std::int64_t program);
// One rank's GPU memory, with CUDA's own.
MemoryEstimate gpu_memory_needed(const RunConfig& config, const RankLayout& layout);

// Parameters of the model, or of a part of it, adapters included. A tied embedding counts in the part that embeds, as
// frozen, and in the one that heads.
struct ParameterCount {
  std::int64_t trained = 0;  // of_widths among them
  std::int64_t frozen = 0;
  std::int64_t of_widths = 0;  // that single widths have for themselves, over all widths
  std::int64_t of_pass = 0;    // as many of those as one pass uses, at most

  // Trained in a step at most.
  std::int64_t in_a_step() const { return trained - of_widths + of_pass; }
};
ParameterCount count_parameters(const Gpt2Config& model, const LoraConfig& lora, const QuantConfig& quant,
                                const StagePart& part = {});

// What each weight width has for itself of them: adapters, norms, trained ranges; unquantized (32) among the widths.
std::map<int, std::int64_t> width_parameters(const Gpt2Config& model, const LoraConfig& lora, const QuantConfig& quant,
                                             const StagePart& part = {});

}  // namespace qat
