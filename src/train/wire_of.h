#pragma once

#include "dist/grad/grad_wire.h"
#include "src/train/comm_config.h"

namespace qat {

// How gradients travel, as dist calls it; `auto`, where nobody has decided yet, as fp32.
inline dist::GradWire wire_of(const CommConfig& config) {
  constexpr dist::WireFormat kFormats[] = {dist::WireFormat::kFloat32, dist::WireFormat::kBFloat16,
                                           dist::WireFormat::kInt8, dist::WireFormat::kInt4,
                                           dist::WireFormat::kFloat32};
  return {.format = kFormats[static_cast<std::size_t>(config.wire)],
          .sum = config.sum == WireSumName::kTwoPhase ? dist::WireSum::kTwoPhase : dist::WireSum::kCodeSum,
          .block = config.block,
          .stochastic = config.stochastic_rounding};
}

}  // namespace qat
