// Where and in which arithmetic the work that is not on integer codes runs. JSON section "compute".
#pragma once

#include <string>

namespace qat {

struct ComputeConfig {
  std::string device = "auto";        // auto: GPUs if there are any, else CPUs; cpu; cuda
  std::string dtype = "auto";         // auto: bf16 on GPUs, fp32 on CPUs; bf16, tf32, fp32
  std::string attention = "fastest";  // fastest: cuDNN's kernels where they apply; repeatable: the same bits every run
  std::string recompute = "none";     // what backward computes again: none, block, selective (src/model/recompute.h)
};

}  // namespace qat
