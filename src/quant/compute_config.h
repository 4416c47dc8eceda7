// Where and in which arithmetic the work that is not on integer codes runs. JSON section "compute".
#pragma once

#include <array>

#include "src/base/named_enum.h"

namespace qat {

enum class DeviceChoice : unsigned char { kAuto, kCpu, kCuda };
template <>
struct EnumNames<DeviceChoice> {
  static constexpr std::array names{"auto", "cpu", "cuda"};
};

enum class FloatChoice : unsigned char { kAuto, kBf16, kTf32, kFp32 };
template <>
struct EnumNames<FloatChoice> {
  static constexpr std::array names{"auto", "bf16", "tf32", "fp32"};
};

enum class AttentionChoice : unsigned char { kFastest, kRepeatable };
template <>
struct EnumNames<AttentionChoice> {
  static constexpr std::array names{"fastest", "repeatable"};
};

// What backward computes again instead of keeping it.
enum class Recompute : unsigned char {
  kNone,
  kBlock,      // whole transformer blocks: one block's activations at a time, and the blocks' inputs
  kSelective,  // fused blocks: the coded output of GELU; operator by operator it is kNone
};
template <>
struct EnumNames<Recompute> {
  static constexpr std::array names{"none", "block", "selective"};
};

struct ComputeConfig {
  DeviceChoice device = DeviceChoice::kAuto;              // auto: GPUs if there are any, else CPUs
  FloatChoice dtype = FloatChoice::kAuto;                 // auto: bf16 on GPUs, fp32 on CPUs
  AttentionChoice attention = AttentionChoice::kFastest;  // fastest: cuDNN's kernels where they apply; repeatable: the
                                                          // same bits every run
  Recompute recompute = Recompute::kNone;
};

}  // namespace qat
