// What a run folder says of its run so far: its records, its final table if it has one, where it stands.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/layer_records.h"

namespace qat {

// A width, or a map of layers' widths by its name.
struct PrecisionName {
  int bits = 32;
  std::string map;  // empty: a width

  std::string text() const { return map.empty() ? std::to_string(bits) + " bits" : map; }
  friend bool operator==(const PrecisionName&, const PrecisionName&) = default;
  // Widths by their bits, then maps by name.
  friend bool operator<(const PrecisionName& a, const PrecisionName& b);
};

struct RecordedStep {
  std::int64_t step = 0;
  double loss = 0.0;  // not a number where it was not finite
  double lr = 0.0, grad_norm = 0.0, tokens_per_s = 0.0, seconds = 0.0;
  int act_bits = 32, grad_bits = 32;
  std::int64_t cycle = -1;  // of the precision schedule, from 0; -1: it has none
  std::int64_t tokens = 0;
  double bitops_ratio = 1.0;
  double memory_bytes = 0.0;  // 0: not said
  bool skipped = false;
  std::vector<std::pair<PrecisionName, double>> losses;  // of the passes that trained
};

struct RecordedEvaluation {
  std::int64_t step = 0;  // steps completed
  PrecisionName at;
  double loss = 0.0;  // nats a token, or a window of questions
  std::optional<double> perplexity, exact_match, f1;
};

struct RunHistory {
  std::filesystem::path dir;
  std::string name;        // the folder's
  std::string state;       // "finished", "stopped", "failed", "running"; with no sign of life for long, "not running"
  std::string what;        // failed: why
  std::string last_sign;   // time of the last one, UTC
  std::string checkpoint;  // newest; empty: none
  std::int64_t total_steps = 0;  // 0: not known
  std::vector<RecordedStep> steps;
  std::vector<RecordedEvaluation> evaluations;
  std::vector<LayerRecord> layers;
  Value config;                      // null: not there
  Value range_test;                  // of range_test.json
  std::optional<FinalReport> final;  // of a run that is finished, at its last step

  std::int64_t steps_done() const { return steps.empty() ? 0 : steps.back().step + 1; }
  // Of the steps that trained, in order.
  std::vector<PrecisionName> precisions() const;
};

// Whether the folder is a run's that has come to something: steps, or a range test.
bool has_records(const std::filesystem::path& dir);

// From metrics.jsonl, and from eval.jsonl, layers.jsonl, report.json, range_test.json, config.json and status.json as
// far as they are there; a run may be writing them. Throws Error(kConfig) for a folder without records.
RunHistory read_run(const std::filesystem::path& dir);

// The run in a few lines, for people: state, steps, tokens, time, speed, losses by width, ...
std::vector<std::pair<std::string, std::string>> run_facts(const RunHistory& run);

}  // namespace qat
