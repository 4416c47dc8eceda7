#include "src/cost/device_rates.h"

namespace qat {
namespace {

// Steps of 65,536 tokens of GPT-2 124M, kernel by kernel (benchmarks/README.md), and products of GPT-2's shapes: 1,020
// to 1,307 TFLOP/s on codes, 694 to 707 in bf16. Attention is cuDNN's at 1,024 tokens: 0.313 ms forward and 1.127
// backward (1.243 repeatable) of 64 sequences of 12 heads. bytes is what its kernels reach, 87 % of the 3.0 TB/s of a
// copy.
DeviceRates h100() {
  return {.name = "H100",
          .code_products = 1190e12,
          .wide_products = 700e12,
          .bf16_products = 700e12,
          .head_products = 763e12,
          .tf32_products = 350e12,
          .fp32_products = 45e12,
          .attention_forward = 329e12,
          .attention_backward = 229e12,
          .repeatable_attention_backward = 207e12,
          .bytes = 2.65e12,
          // From steps of passes of 8 to 64 sequences.
          .part_forward_s = 0.15e-3,
          .part_backward_s = 0.29e-3};
}

// The same chip with faster memory: 4.8 TB/s on paper where the H100 has 3.35.
DeviceRates h200() {
  DeviceRates rates = h100();
  rates.name = "H200";
  rates.bytes *= 4.8 / 3.35;
  return rates;
}

}  // namespace

DeviceRates gpu_rates(const std::string& gpu_name) {
  if (gpu_name.find("H200") != std::string::npos) return h200();
  DeviceRates rates = h100();
  if (gpu_name.find("H100") == std::string::npos) rates.name += " (in place of " + gpu_name + ")";
  return rates;
}

DeviceRates cpu_rates(int threads) {
  // One core of an AMD EPYC (Zen 4, AVX2).
  const double n = threads;
  return {.name = "CPU, " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"),
          .code_products = n * 130e9,
          .wide_products = n * 70e9,
          .bf16_products = n * 70e9,
          .head_products = n * 70e9,
          .tf32_products = n * 70e9,
          .fp32_products = n * 70e9,
          .attention_forward = n * 35e9,
          .attention_backward = n * 35e9,
          .repeatable_attention_backward = n * 35e9,
          .bytes = n * 8e9,
          .part_forward_s = 0.0,
          .part_backward_s = 0.0};
}

double float_products(const DeviceRates& rates, const ComputeConfig& compute, bool cuda) {
  if (!cuda || compute.dtype == FloatChoice::kFp32) return rates.fp32_products;
  return compute.dtype == FloatChoice::kTf32 ? rates.tf32_products : rates.bf16_products;
}

}  // namespace qat
