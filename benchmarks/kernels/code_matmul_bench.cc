// Speed of the CPU kernels of quantized training on one thread. Counters: "op" is 2 * M * N * K per second (integer
// operations of the GEMM), "bytes" what an encoder reads and writes. Bound of the GEMM on AVX2: two pmaddwd a cycle,
// 64 operations a cycle; of an encoder: memory bandwidth.
//   build/code_matmul_bench --benchmark_out=benchmarks/results/code_matmul.json
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/gemm/code_matmul.h"
#include "kernels/optim/adamw_flat.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {
namespace {

std::vector<std::int8_t> random_codes(std::int64_t n) {
  std::mt19937 generator(1);
  std::uniform_int_distribution<int> codes(-127, 127);
  std::vector<std::int8_t> values(static_cast<std::size_t>(n));
  for (std::int8_t& value : values) value = static_cast<std::int8_t>(codes(generator));
  return values;
}

std::vector<float> random_floats(std::int64_t n) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}

void count(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] =
      benchmark::Counter(per_iteration * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void code_matmul_mnk(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const std::vector<std::int8_t> a = random_codes(m * k), b = random_codes(n * k);
  const std::vector<float> row_scales(static_cast<std::size_t>(m), 0.01F),
      col_scales(static_cast<std::size_t>(n), 0.02F);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  for (auto _ : state) {
    code_matmul(Exec{}, {a.data(), m, k}, {b.data(), n, k}, {row_scales, col_scales, {}, false},
                Matrix<float>{y.data(), m, n});
    benchmark::ClobberMemory();
  }
  count(state, "op", 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}
BENCHMARK(code_matmul_mnk)
    ->ArgNames({"M", "N", "K"})
    // tokens x layers of the quickstart model
    ->Args({512, 256, 256})
    ->Args({512, 768, 256})
    ->Args({512, 1024, 256})
    ->Args({512, 256, 1024})
    ->Args({4096, 128, 128})
    ->Args({4096, 512, 128})
    // GPT-2 124M: attention out, QKV, both halves of the MLP
    ->Args({1024, 768, 768})
    ->Args({1024, 2304, 768})
    ->Args({1024, 3072, 768})
    ->Args({1024, 768, 3072})
    // weight gradients: the sum runs over tokens
    ->Args({1024, 256, 4096})
    ->Args({3072, 768, 4096})
    // LoRA of rank 16: down, up, gradient
    ->Args({1024, 16, 768})
    ->Args({1024, 768, 16})
    ->Args({16, 768, 2048})
    ->Unit(benchmark::kMicrosecond);

enum EncodeKind : std::int64_t { kRows, kRowsTransposed, kColsTransposedScaled, kRowsStochastic };

void encode(benchmark::State& state) {
  const std::int64_t rows = state.range(1), cols = state.range(2);
  const std::vector<float> x = random_floats(rows * cols);
  std::vector<std::int8_t> codes(x.size()), codes_transposed(x.size());
  std::vector<float> row_scales(static_cast<std::size_t>(rows), 1.5F), col_scales(static_cast<std::size_t>(cols));
  const std::vector<float> factors = row_scales;
  const Matrix<const float> in{x.data(), rows, cols};
  const Matrix<std::int8_t> plain{codes.data(), rows, cols}, other{codes_transposed.data(), cols, rows};
  const EncodeOptions nearest{}, stochastic{.rounding = Rounding::kStochastic, .key = {1, 2}};
  double bytes = 5.0;  // per element: a float read, a code written
  for (auto _ : state) {
    switch (state.range(0)) {
      case kRows:
        encode_rows(Exec{}, in, nearest, {plain, {}}, row_scales);
        break;
      case kRowsTransposed:
        encode_rows(Exec{}, in, nearest, {plain, other}, row_scales), bytes = 6.0;
        break;
      case kColsTransposedScaled:
        encode_scaled_cols(Exec{}, in, {factors, {}}, nearest, {{}, other}, col_scales), bytes = 9.0;  // read twice
        break;
      default:
        encode_rows(Exec{}, in, stochastic, {plain, {}}, row_scales);
    }
    benchmark::ClobberMemory();
  }
  count(state, "bytes", bytes * static_cast<double>(x.size()));
}
BENCHMARK(encode)
    ->ArgNames({"kind", "rows", "cols"})
    ->ArgsProduct({{kRows, kRowsTransposed, kColsTransposedScaled, kRowsStochastic}, {1024}, {256, 768, 3072}})
    ->Unit(benchmark::kMicrosecond);

void adamw(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  std::vector<float> p = random_floats(n), m(p.size()), v(p.size());
  const std::vector<float> g = p;
  for (auto _ : state) {
    adamw_flat(Exec{}, p, g, m, v, {.learning_rate = 1e-4F, .weight_decay = 0.1F});
    benchmark::ClobberMemory();
  }
  count(state, "bytes", 28.0 * static_cast<double>(n));  // four read, three written
}
BENCHMARK(adamw)->Arg(1 << 20)->Arg(1 << 24)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace qat::kernels

BENCHMARK_MAIN();
