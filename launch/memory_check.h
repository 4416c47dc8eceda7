// Does a run fit into the memory there is: estimated before it begins, and said again when memory has run out.
#pragma once

#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "launch/world.h"
#include "src/base/log.h"
#include "src/config/run_config.h"
#include "src/memory/host_memory.h"
#include "src/memory/memory_advice.h"

namespace qat::launch {

// What a rank of a run needs and has, of main memory and, on GPUs, of its GPU's.
class MemoryOutlook {
 public:
  MemoryOutlook(World& world, const RunConfig& config, const RankLayout& layout);

  // A line for each kind of memory, and a warning where the rank that is worst off has too little. Never an error: an
  // estimate may be wrong.
  void report(Logger& log) const;

  // What the ranks had at most; collective.
  void report_peak(World& world, Logger& log) const;

  // What was needed, what there was, and what to change, for a rank whose memory has run out.
  std::string after_failure(const std::exception& error) const;

 private:
  struct Account {
    std::string name;  // "memory" or "GPU memory"
    MemoryQuestion question;
    MemoryEstimate needed;   // by a rank
    MemoryShare share;       // this rank's
    std::int64_t least = 0;  // what the worst rank has
    std::string worst;       // which one that is, and by which limit

    bool fits() const { return needed.total() <= least; }
  };

  void find_worst(World& world, Account& account) const;
  // Changes against what the worst rank has or, where there seemed to be enough, against three quarters of what was
  // thought to be needed.
  std::string changes(const Account& account) const;

  RunConfig config_;
  RankLayout layout_;
  std::vector<Account> accounts_;  // main memory first
};

enum class Purpose : std::uint8_t { kTraining, kRangeTest, kEvaluation };

// Looks and reports. Collective; before the model is made, and with the GPU chosen. parts: what the stages have, of
// which the one that needs most is looked at; empty: there are none.
std::unique_ptr<const MemoryOutlook> look_at_memory(World& world, const RunConfig& config, Purpose purpose, bool cuda,
                                                    int threads, Logger* log, std::span<const StagePart> parts = {});

// The whole message: who, how much was asked for, how much there was, the consumers and what would help.
// outlook: null if the run had not come so far.
std::string describe_out_of_memory(const std::exception& error, int rank, const MemoryOutlook* outlook);

}  // namespace qat::launch
