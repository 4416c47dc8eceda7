// Measured rates of a machine as a file: `qat_dist doctor --save` writes it, `qat_dist plan --rates` reads it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "src/cost/device_rates.h"

namespace qat {

struct MeasuredDevice {
  std::string device;  // "NVIDIA H100 80GB HBM3", "CPU"
  bool cuda = false;
  std::string host;               // where it was measured
  std::string made;               // when: "2026-11-30"
  std::int64_t memory_bytes = 0;  // of the GPU, or of the host
  int cores = 0;                  // of the host
  DeviceRates rates;              // of the GPU, or of one core
  Links links;                    // 0: not measured
};

// A JSON object, with a line end.
std::string rates_text(const MeasuredDevice& measured);

// Throws Error(kConfig) that names file, line and key for anything but such a file: keys that are missing or unknown,
// rates that are not positive.
MeasuredDevice read_rates(const std::filesystem::path& path);

}  // namespace qat
