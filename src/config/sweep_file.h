// A sweep: one configuration at every combination of some keys' values. `qat_dist sweep FILE` runs it.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace qat {

struct SweepRun {
  std::string name;                                         // of its folder: "lr.peak=0.001,precision.min_bits=3"
  std::vector<std::pair<std::string, std::string>> values;  // key and value, in the order of the file
  std::vector<std::string> sets;                            // for the program: "key=value", run.dir last
  std::filesystem::path dir;
};

struct SweepPlan {
  std::filesystem::path config;  // empty: every key has its default
  std::filesystem::path runs_dir;
  std::vector<std::string> keys;  // that are varied
  std::vector<SweepRun> runs;     // the last key turns fastest
};

// {"config": "configs/cpt.json", "runs_dir": "runs/lr", "set": {"lr.peak": [1e-3, 2e-3], "precision.min_bits": [3, 4]},
//  "fixed": {"train.steps": 500}}, the last of which may be left out; `more` ("key=value") goes over it. Paths are
// relative to the working directory. Throws one Error(kConfig) for what is wrong with the file, and for the first
// combination whose configuration is.
SweepPlan read_sweep(const std::filesystem::path& file, const std::vector<std::string>& more);

}  // namespace qat
