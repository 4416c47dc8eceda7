// Finished runs of one model under different precision schedules, side by side: from the files in their folders.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/table.h"

namespace qat {

struct ComparedRun {
  std::string name;  // of its schedule: "cyclic", "static 8 bits"; runs with other seeds have the same
  std::uint64_t seed = 1;
  std::filesystem::path dir;
  std::int64_t steps = 0;
  double bitops = 0.0;         // spent in training
  double bitops_ratio = 1.0;   // relative to 32 bits
  std::map<int, double> nll;   // held out, nats a token, by width; widths without a number are not in it
  std::vector<double> losses;  // of steps, as far as they are finite
  double tokens_per_s = 0.0;   // median of steps
  bool is_static = false;

  // 1 / (1 + standard deviation of nll over the widths): 1 where all widths do equally well.
  double stability() const;
};

// Reads report.json and metrics.jsonl. Throws Error(kConfig) naming the file if they are not those of a finished run.
ComparedRun read_run(const std::string& name, std::uint64_t seed, const std::filesystem::path& dir, bool is_static);

// A row a run: steps, perplexity at every width, BitOps, losses, stability, speed.
Table comparison_table(const std::vector<ComparedRun>& runs);

// What the rows come to at `bits`, over the seeds: the best schedule, and each that is not static against the best
// static one.
std::vector<std::string> comparison_findings(const std::vector<ComparedRun>& runs, int bits);

Value comparison_json(const std::vector<ComparedRun>& runs, int bits);

}  // namespace qat
