#pragma once

#include <cstdint>
#include <string>

#include "src/config/run_config.h"
#include "src/memory/memory_model.h"

namespace qat::testing {

inline RunConfig of_preset(const std::string& name) {
  RunConfig config;
  apply_gpt2_preset(name, config.model);
  config.lora.rank = 0;
  config.data.sequence_length = config.model.n_positions;
  config.precision.kind = ScheduleKind::kConstant;
  config.precision.max_bits = 8;
  config.train.micro_batch_size = config.train.batch_size = 8;
  config.eval.batch_size = 1;
  return config;
}

inline std::int64_t bytes_of(const MemoryEstimate& estimate, const std::string& name) {
  for (const MemoryConsumer& one : estimate.consumers)
    if (one.name == name) return one.bytes;
  return 0;
}

}  // namespace qat::testing
