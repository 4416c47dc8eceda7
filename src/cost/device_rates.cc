#include "src/cost/device_rates.h"

#include "src/cost/known_gpus.h"

namespace qat {

DeviceRates gpu_rates(const std::string& gpu_name) {
  if (const KnownGpu* gpu = find_gpu(gpu_name)) return gpu->rates;
  DeviceRates rates = find_gpu("H100")->rates;
  rates.name += " (in place of " + gpu_name + ")";
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
          // From blocks of 64 to 384 values (benchmarks/README.md): wider ones have no use for them.
          .part_forward_s = 0.12e-3,
          .part_backward_s = 0.22e-3,
          .edge_parts = 0.2,
          .row_forward_s = 0.7e-6 / n,
          .row_backward_s = 1.3e-6 / n,
          .source = "measured on one core of an AMD EPYC"};
}

DeviceRates slowed(DeviceRates rates, double factor) {
  for (double* rate : {&rates.code_products, &rates.wide_products, &rates.bf16_products, &rates.head_products,
                       &rates.tf32_products, &rates.fp32_products, &rates.attention_forward, &rates.attention_backward,
                       &rates.repeatable_attention_backward, &rates.bytes})
    *rate /= factor;
  for (double* seconds : {&rates.part_forward_s, &rates.part_backward_s, &rates.row_forward_s, &rates.row_backward_s})
    *seconds *= factor;
  return rates;
}

double float_products(const DeviceRates& rates, const ComputeConfig& compute, bool cuda) {
  if (!cuda || compute.dtype == FloatChoice::kFp32) return rates.fp32_products;
  return compute.dtype == FloatChoice::kTf32 ? rates.tf32_products : rates.bf16_products;
}

}  // namespace qat
