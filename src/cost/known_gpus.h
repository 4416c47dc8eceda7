// The GPUs that plans know by name: their memory, and what they do in a second. The one place for such figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/cost/device_rates.h"

namespace qat {

struct KnownGpu {
  std::string name;  // its words are in CUDA's name of the GPU: "H100 PCIe"
  std::int64_t memory_bytes = 0;
  DeviceRates rates;
  Links links;
};

// The one whose words are all in `gpu_name`, whatever the case of their letters, and most of them. Null: none.
const KnownGpu* find_gpu(const std::string& gpu_name);

// All, for messages: "A10, A100, ...".
std::string known_gpu_names();

}  // namespace qat
