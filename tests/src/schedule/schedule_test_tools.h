#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/error.h"
#include "src/schedule/precision_schedule.h"

namespace qat::testing {

inline const std::vector<int> kAll = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 32};

inline PrecisionScheduleConfig curve(const std::string& kind, const std::string& phase, int min_bits, int max_bits,
                                     std::int64_t cycles) {
  PrecisionScheduleConfig config;
  config.kind = enum_value<ScheduleKind>(kind).value();
  if (!phase.empty()) config.phase = enum_value<CyclePhase>(phase).value();
  config.min_bits = min_bits;
  config.max_bits = max_bits;
  config.cycles = cycles;
  return config;
}

// Message of the Error(kConfig) that constructing throws; empty if it does not.
inline std::string refusal(const PrecisionScheduleConfig& config, const std::vector<int>& widths, std::int64_t total) {
  try {
    const PrecisionSchedule schedule(config, widths, total);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

}  // namespace qat::testing
