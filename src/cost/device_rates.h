// How fast a device does the kinds of work that a pass is made of: measured, and what the model of times (pass_time.h)
// divides by.
#pragma once

#include <string>

#include "src/quant/compute_config.h"

namespace qat {

struct DeviceRates {
  std::string name;  // "H100", or what it is taken for: "H100 (in place of NVIDIA A100)"
  // Operations a second, 2 M N K a product.
  double code_products = 0.0;  // int8 codes, with their scales
  double wide_products = 0.0;  // fp16 codes, of 9 to 11 bits
  double bf16_products = 0.0;  // of the blocks
  double head_products = 0.0;  // the same, of the output projection
  double tf32_products = 0.0;
  double fp32_products = 0.0;
  // Attention without the half of its products that the causal mask leaves out.
  double attention_forward = 0.0;
  double attention_backward = 0.0;
  double repeatable_attention_backward = 0.0;
  double bytes = 0.0;  // a second, through memory: norms, encoding, GELU, loss, sums of gradients, the optimizer
  // Seconds that a pass takes for a block, however few its tokens are: kernels and operators that begin and end. What
  // comes before the blocks, and what behind them, takes `edge_parts` of it.
  double part_forward_s = 0.0;
  double part_backward_s = 0.0;
  double edge_parts = 1.0;
  // Seconds for each token of a block, however narrow it is: rows that begin and end.
  double row_forward_s = 0.0;
  double row_backward_s = 0.0;
  std::string source = "measured";
};

// Bytes a second that a rank sends in an exchange of gradients or parameters, sums included; 0: unknown.
struct Links {
  double node_bytes = 0.0;     // to ranks of its host
  double network_bytes = 0.0;  // to other hosts
  // Seconds of a message of no length; 0: in the rate, or not known.
  double node_latency_s = 0.0;
  double network_latency_s = 0.0;
};

// Of a device that takes `factor` times as long for everything.
DeviceRates slowed(DeviceRates rates, double factor);

// By the name that CUDA gives a GPU, as in "NVIDIA H100 80GB HBM3" (known_gpus.h). One that is not known is taken for
// an H100, and says so in its name: the proportions of a model's parts, which a cut is made by, differ less than its
// speed.
DeviceRates gpu_rates(const std::string& gpu_name);

// Of a rank with so many threads.
DeviceRates cpu_rates(int threads);

// Products on values, by the dtype that activations have there.
double float_products(const DeviceRates& rates, const ComputeConfig& compute, bool cuda);

}  // namespace qat
