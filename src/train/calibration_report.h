// What a calibration found, in plain numbers: for the log and for calibration.jsonl.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/model/gpt2.h"

namespace qat {

struct Calibration;

// Of all inputs of a layer in a calibration, as they are.
struct InputStatistics {
  double min = 0.0, max = 0.0, mean = 0.0, deviation = 0.0;
  std::int64_t count = 0;
};

// Steps between neighbouring codes, of the quantizers of one role.
struct StepSummary {
  std::int64_t quantizers = 0;
  double least = 0.0, most = 0.0, mean = 0.0;  // over the groups of all of them
  // Layers whose mean step another one has to the last bit: as a rule, a sign that something is not what it should be.
  std::vector<std::string> duplicates;
  std::vector<std::string> vanishing;  // layers none of whose steps is above 1e-9
};

struct LayerCalibration {
  std::string layer;
  int weight_bits = 32, activation_bits = 32;
  InputStatistics inputs;
  double lo = 0.0, hi = 0.0;  // what the range reaches, in its quantizer's terms (CalibratedRange), over its groups
};

struct CalibrationReport {
  std::int64_t step = 0;  // of training, before which it was
  std::int64_t batches = 0;
  int weight_bits = 32, activation_bits = 32;   // of the pass as a whole
  std::int64_t calibrated = 0, quantizers = 0;  // activation quantizers of the pass: with a range, and all
  StepSummary weights, activations;
  std::vector<LayerCalibration> layers;  // those whose range was taken
};

// Of what is in force now for passes at `precision`, whose groups the model holds.
CalibrationReport calibration_report(const Gpt2& model, const PrecisionMap& precision, const Calibration& found,
                                     std::int64_t step, std::int64_t batches);

// One line.
std::string text_of(const CalibrationReport& report);
// What looks wrong: duplicates, steps that vanish, ranges that lack. One line each.
std::vector<std::string> doubts_of(const CalibrationReport& report);
// A line of calibration.jsonl (docs/numerics.md).
Value to_value(const CalibrationReport& report);

}  // namespace qat
