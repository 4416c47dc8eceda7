// How gradients travel between ranks. JSON section "comm".
#pragma once

#include <array>
#include <cstdint>

#include "src/base/named_enum.h"

namespace qat {

enum class WireFormatName : unsigned char { kFp32, kBf16, kInt8, kInt4, kAuto };
template <>
struct EnumNames<WireFormatName> {
  static constexpr std::array names{"fp32", "bf16", "int8", "int4", "auto"};
};

enum class WireSumName : unsigned char { kCodeSum, kTwoPhase };
template <>
struct EnumNames<WireSumName> {
  static constexpr std::array names{"code_sum", "two_phase"};
};

enum class WeightsName : unsigned char { kCodes, kFp32 };
template <>
struct EnumNames<WeightsName> {
  static constexpr std::array names{"codes", "fp32"};
};

struct CommConfig {
  // auto: a run decides when it starts (launch/settle_wire.h); what is not told otherwise sends fp32.
  WireFormatName wire = WireFormatName::kAuto;
  WireSumName sum = WireSumName::kCodeSum;    // of int8 and int4
  std::int64_t block = 256;                   // elements that share a scale
  bool error_feedback = true;                 // what codes do not carry is added to the next gradients
  bool stochastic_rounding = false;           // of codes
  bool overlap = true;                        // GPUs: gradients and parameters travel beside computing
  WeightsName weights = WeightsName::kCodes;  // how updated ones come back, where products read codes
  int ranks_per_node = 0;                     // of the two levels; 0: as the hosts say
  double self_check = 0.5;                    // relative error of the first exchange that ends the run; 0: not measured
};

// Whether GPUs exchange gradients while backward runs. tries_again: train.on_out_of_memory may end a pass of one stage
// in the middle, where others would wait for its calls.
inline bool exchanges_early(const CommConfig& comm, int stages, bool tries_again) {
  return comm.overlap && (stages == 1 || !tries_again);
}

// Whether gradients and parameters travel beside computing, where there are several ranks.
inline bool sends_beside(const CommConfig& comm, bool cuda, int stages) { return comm.overlap && cuda && stages == 1; }

}  // namespace qat
