#include <torch/torch.h>

#include <chrono>

#include "kernels/common/cuda_device.h"
#include "kernels/gemm/code_matmul.h"
#include "launch/doctor/probe.h"
#include "src/cost/known_gpus.h"
#include "src/quant/torch_view.h"

namespace qat::launch {
namespace {

// Seconds of one call: the best of some rounds, each about a twentieth of a second long.
template <typename Body>
double seconds_of(bool cuda, const Body& body) {
  constexpr int kRounds = 4;
  constexpr double kRoundSeconds = 0.05;
  const auto finish = [&] {
    if (cuda) cuda_synchronize();
  };
  const auto timed = [&](std::int64_t calls) {
    const auto begin = std::chrono::steady_clock::now();
    for (std::int64_t i = 0; i < calls; ++i) body();
    finish();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  body();  // first calls find the fastest kernels
  finish();
  const double once = timed(1);
  const auto calls = std::max<std::int64_t>(1, static_cast<std::int64_t>(kRoundSeconds / std::max(once, 1e-6)));
  double best = once;
  for (int round = 0; round < kRounds; ++round) best = std::min(best, timed(calls) / static_cast<double>(calls));
  return best;
}

// Of GPT-2's two long products, [M, 768] x [768, 3072] and back: operations a second.
template <typename Product>
double product_rate(std::int64_t tokens, bool cuda, const Product& product) {
  double operations = 0.0, seconds = 0.0;
  for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{768, 3072}, {3072, 768}}) {
    operations += 2.0 * static_cast<double>(tokens * in * out);
    seconds += product(tokens, in, out, cuda);
  }
  return operations / seconds;
}

double code_seconds(std::int64_t tokens, std::int64_t in, std::int64_t out, bool cuda) {
  const at::TensorOptions options = at::TensorOptions().device(cuda ? at::kCUDA : at::kCPU);
  const at::Tensor x = torch::randint(-127, 128, {tokens, in}, options.dtype(at::kChar));
  const at::Tensor w = torch::randint(-127, 128, {out, in}, options.dtype(at::kChar));
  const at::Tensor rows = torch::full({tokens}, 0.01F, options), cols = torch::full({out}, 0.01F, options);
  at::Tensor y = torch::empty({tokens, out}, options.dtype(cuda ? at::kBFloat16 : at::kFloat));
  kernels::Exec exec = exec_for(y);
  exec.parallel = nullptr;
  return seconds_of(cuda, [&] {
    kernels::code_matmul(exec, const_codes(x), const_codes(w), {const_span(rows), const_span(cols), {}, false},
                         float_matrix(y));
  });
}

double float_rate(std::int64_t tokens, bool cuda, at::ScalarType dtype) {
  const at::TensorOptions options = at::TensorOptions().device(cuda ? at::kCUDA : at::kCPU).dtype(dtype);
  return product_rate(tokens, cuda, [&](std::int64_t m, std::int64_t in, std::int64_t out, bool on_gpu) {
    const at::Tensor x = torch::randn({m, in}, options), w = torch::randn({out, in}, options);
    at::Tensor y = torch::empty({m, out}, options);
    return seconds_of(on_gpu, [&] { at::mm_out(y, x, w.t()); });
  });
}

// Bytes a second, read and written.
double copy_rate(bool cuda) {
  const std::int64_t bytes = cuda ? std::int64_t{1} << 30 : std::int64_t{1} << 26;
  const at::TensorOptions options = at::TensorOptions().device(cuda ? at::kCUDA : at::kCPU).dtype(at::kByte);
  const at::Tensor from = torch::zeros({bytes}, options);
  at::Tensor to = torch::zeros({bytes}, options);
  return 2.0 * static_cast<double>(bytes) / seconds_of(cuda, [&] { to.copy_(from); });
}

// Forward and backward of causal attention, counted as pass_time.cc counts it.
std::pair<double, double> attention_rates(bool cuda) {
  const std::int64_t batch = cuda ? 32 : 1, heads = 12, length = 1024, width = 64;
  const at::TensorOptions options =
      at::TensorOptions().device(cuda ? at::kCUDA : at::kCPU).dtype(cuda ? at::kBFloat16 : at::kFloat);
  const auto input = [&] { return torch::randn({batch, heads, length, width}, options).requires_grad_(); };
  const at::Tensor q = input(), k = input(), v = input(),
                   gradient = torch::randn({batch, heads, length, width}, options);
  const auto forward = [&] { return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true); };
  const double forward_s = seconds_of(cuda, [&] { (void)forward(); });
  const double both_s = seconds_of(cuda, [&] { (void)torch::autograd::grad({forward()}, {q, k, v}, {gradient}); });
  const double product = static_cast<double>(batch * heads * width * length * length);
  return {2.0 * product / forward_s, 5.0 * product / std::max(both_s - forward_s, 0.1 * both_s)};
}

}  // namespace

// The rest in the proportions of the H100, where it was measured, or of one core (device_rates.cc).
DeviceRates measure_speed(const ComputeMode& mode) {
  const bool cuda = mode.is_cuda();
  const std::int64_t tokens = cuda ? 65536 : 512;
  DeviceRates rates = cuda ? find_gpu("H100")->rates : cpu_rates(/*threads=*/1);
  const DeviceRates known = rates;
  rates.source = "measured";
  rates.code_products = product_rate(tokens, cuda, code_seconds);
  rates.fp32_products = float_rate(cuda ? tokens / 4 : tokens, cuda, at::kFloat);
  const auto [forward, backward] = attention_rates(cuda);
  rates.attention_forward = forward;
  rates.attention_backward = backward;
  rates.repeatable_attention_backward = backward * known.repeatable_attention_backward / known.attention_backward;
  if (!cuda) {
    for (double* rate : {&rates.wide_products, &rates.bf16_products, &rates.head_products, &rates.tf32_products})
      *rate = rates.fp32_products;
    rates.bytes = copy_rate(cuda);
    return rates;
  }
  rates.bf16_products = float_rate(tokens, cuda, at::kBFloat16);
  rates.wide_products = float_rate(tokens, cuda, at::kHalf);
  rates.head_products = rates.bf16_products * known.head_products / known.bf16_products;
  rates.tf32_products = rates.bf16_products * known.tf32_products / known.bf16_products;
  // Its kernels reach 0.87 of a copy (known_gpus.cc).
  rates.bytes = 0.87 * copy_rate(cuda);
  return rates;
}

}  // namespace qat::launch
