// The integer GEMM on a GPU at the shapes of 124M training, beside cuBLASLt's bf16 GEMM of the same shape.
//
//   build/code_matmul_cuda_bench
//
// Milliseconds are the median of 7 timings of 20 launches each, by CUDA events. Inputs are random codes (all of
// -127..127) and uniform bf16 values; launches take turns among copies of the inputs, so that no launch finds its own
// in the L2. bf16 is the best of up to 8 algorithms that cuBLASLt proposes, timed the same way.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/common/error.h"
#include "kernels/common/philox.h"
#include "kernels/gemm/code_matmul.h"
#include "kernels/gemm/code_matmul_cuda.h"

namespace qat::kernels {
namespace {

constexpr double kInt8Peak = 1979.0;  // TFLOP/s, H100 SXM, dense
constexpr int kTimings = 7;
constexpr int kLaunches = 20;
constexpr int kCopies = 3;
constexpr std::int64_t kWorkspace = 32 << 20;

#define QAT_BENCH_CUBLAS(expr) QAT_CHECK((expr) == CUBLAS_STATUS_SUCCESS, "cuBLASLt refused " #expr)

__global__ void fill_codes(std::int8_t* out, std::int64_t n, std::uint64_t seed) {
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x)
    out[i] =
        static_cast<std::int8_t>(static_cast<int>(uniform_at({seed, 1}, static_cast<std::uint64_t>(i)) * 255.0F) - 127);
}
__global__ void fill_bf16(__nv_bfloat16* out, std::int64_t n, std::uint64_t seed) {
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x)
    out[i] = __float2bfloat16(2.0F * uniform_at({seed, 2}, static_cast<std::uint64_t>(i)) - 1.0F);
}
__global__ void fill_scales(float* out, std::int64_t n) {
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) out[i] = 0.01F;
}

// Median milliseconds of one launch; launch(i) is the i-th.
double median_ms(const std::function<void(int)>& launch) {
  cudaEvent_t begin = nullptr, end = nullptr;
  QAT_CUDA_CHECK(cudaEventCreate(&begin));
  QAT_CUDA_CHECK(cudaEventCreate(&end));
  for (int i = 0; i < kCopies; ++i) launch(i);
  std::vector<double> times;
  for (int timing = 0; timing < kTimings; ++timing) {
    QAT_CUDA_CHECK(cudaEventRecord(begin));
    for (int i = 0; i < kLaunches; ++i) launch(i);
    QAT_CUDA_CHECK(cudaEventRecord(end));
    QAT_CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0.0F;
    QAT_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(static_cast<double>(ms) / kLaunches);
  }
  QAT_CUDA_CHECK(cudaEventDestroy(begin));
  QAT_CUDA_CHECK(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[kTimings / 2];
}

struct Shape {
  const char* what;
  std::int64_t m, n, k;
  DType out;
  bool accumulate = false;
  std::optional<MatmulPath> path = {};  // rather than the planned one
};

const Exec kExec{.device = Device::kCuda};
using Bytes = std::vector<std::unique_ptr<DeviceBytes>>;

template <typename T, typename Fill>
Bytes copies(std::int64_t elems, std::uint64_t seed, const Fill& fill) {
  Bytes result;
  for (std::uint64_t i = 0; i < kCopies; ++i) {
    result.push_back(std::make_unique<DeviceBytes>(kExec, static_cast<std::size_t>(elems) * sizeof(T)));
    fill<<<1024, 256>>>(static_cast<T*>(result.back()->get()), elems, seed + i);
    QAT_CUDA_CHECK(cudaGetLastError());
  }
  return result;
}

double code_matmul_ms(const Shape& s, std::string& kernel) {
  const Bytes a = copies<std::int8_t>(s.m * s.k, 1, fill_codes), b = copies<std::int8_t>(s.n * s.k, 11, fill_codes);
  const DeviceScratch<float> row_scales(kExec, s.m), col_scales(kExec, s.n);
  fill_scales<<<1, 1024>>>(row_scales.get(), s.m);
  fill_scales<<<1, 1024>>>(col_scales.get(), s.n);
  const auto y_bytes = static_cast<std::size_t>(s.m * s.n) * size_of(s.out);
  const DeviceBytes y(kExec, y_bytes);
  QAT_CUDA_CHECK(cudaMemsetAsync(y.get(), 0, y_bytes));
  const CodeMatmulEpilogue epilogue{{row_scales.get(), static_cast<std::size_t>(s.m)},
                                    {col_scales.get(), static_cast<std::size_t>(s.n)},
                                    {},
                                    s.accumulate};
  const auto call = [&](int i) -> CudaMatmul {
    const auto copy = static_cast<std::size_t>(i % kCopies);
    return {{static_cast<const std::int8_t*>(a[copy]->get()), s.m, s.k},
            {static_cast<const std::int8_t*>(b[copy]->get()), s.n, s.k},
            epilogue,
            {y.get(), s.m, s.n, s.n, s.out}};
  };
  MatmulTuning tuning;
  tuning.path = s.path;
  set_matmul_tuning(tuning);
  const double ms = median_ms([&](int i) {
    const CudaMatmul c = call(i);
    code_matmul(kExec, c.a, c.b, c.epilogue, c.y);
  });
  set_matmul_tuning({});
  const MatmulProblem problem = problem_of(call(0));
  const char* tile = picked_tile_name(problem);
  kernel = tile != nullptr ? tile : name_of(plan_code_matmul(problem).path);
  return ms;
}

// y = a b^T in bf16 with fp32 sums: columns first, y^T = b a^T.
double bf16_ms(cublasLtHandle_t handle, const Shape& s) {
  const Bytes a = copies<__nv_bfloat16>(s.m * s.k, 1, fill_bf16), b = copies<__nv_bfloat16>(s.n * s.k, 11, fill_bf16);
  const auto y_bytes = static_cast<std::size_t>(s.m * s.n) * size_of(s.out);
  const DeviceBytes y(kExec, y_bytes), workspace(kExec, kWorkspace);
  QAT_CUDA_CHECK(cudaMemsetAsync(y.get(), 0, y_bytes));
  cublasLtMatmulDesc_t desc = nullptr;
  QAT_BENCH_CUBLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  QAT_BENCH_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  const auto size = [](std::int64_t n) { return static_cast<std::uint64_t>(n); };
  QAT_BENCH_CUBLAS(cublasLtMatrixLayoutCreate(&left, CUDA_R_16BF, size(s.k), size(s.n), s.k));
  QAT_BENCH_CUBLAS(cublasLtMatrixLayoutCreate(&right, CUDA_R_16BF, size(s.k), size(s.m), s.k));
  QAT_BENCH_CUBLAS(cublasLtMatrixLayoutCreate(&out, s.out == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F, size(s.n),
                                              size(s.m), s.n));
  cublasLtMatmulPreference_t preference = nullptr;
  QAT_BENCH_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
  const std::uint64_t workspace_bytes = kWorkspace;
  QAT_BENCH_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                        &workspace_bytes, sizeof(workspace_bytes)));
  constexpr int kProposals = 8;
  cublasLtMatmulHeuristicResult_t found[kProposals];
  int count = 0;
  QAT_BENCH_CUBLAS(
      cublasLtMatmulAlgoGetHeuristic(handle, desc, left, right, out, out, preference, kProposals, found, &count));
  const float one = 1.0F, beta = s.accumulate ? 1.0F : 0.0F;
  double best = std::numeric_limits<double>::infinity();
  for (int algo = 0; algo < count; ++algo)
    best = std::min(best, median_ms([&](int i) {
                      const auto copy = static_cast<std::size_t>(i % kCopies);
                      QAT_BENCH_CUBLAS(cublasLtMatmul(handle, desc, &one, b[copy]->get(), left, a[copy]->get(), right,
                                                      &beta, y.get(), out, y.get(), out, &found[algo].algo,
                                                      workspace.get(), kWorkspace, nullptr));
                    }));
  (void)cublasLtMatmulPreferenceDestroy(preference);
  for (cublasLtMatrixLayout_t layout : {left, right, out}) (void)cublasLtMatrixLayoutDestroy(layout);
  (void)cublasLtMatmulDescDestroy(desc);
  return best;
}

void run() {
  constexpr std::int64_t kTokens = 65536;
  constexpr DType bf16 = DType::kBFloat16, fp32 = DType::kFloat32;
  std::vector<Shape> shapes{{"y attention out", kTokens, 768, 768, bf16},
                            {"y qkv", kTokens, 2304, 768, bf16},
                            {"y mlp up", kTokens, 3072, 768, bf16},
                            {"y mlp down", kTokens, 768, 3072, bf16},
                            {"dX qkv", kTokens, 768, 2304, bf16},
                            {"dX attention out", kTokens, 768, 768, bf16},
                            {"dX mlp up", kTokens, 768, 3072, bf16},
                            {"dX mlp down", kTokens, 3072, 768, bf16},
                            {"dW mlp up", 3072, 768, kTokens, fp32},
                            {"dW mlp down", 768, 3072, kTokens, fp32},
                            {"dW qkv", 2304, 768, kTokens, fp32},
                            {"dW attention out", 768, 768, kTokens, fp32},
                            {"dW mlp up, added", 3072, 768, kTokens, fp32, true}};
  for (const std::int64_t rank : {16, 64}) {
    shapes.push_back({"x A^T", kTokens, rank, 768, bf16});
    shapes.push_back({"x A^T mlp down", kTokens, rank, 3072, bf16});
    shapes.push_back({"(x A^T) B^T, added", kTokens, 768, rank, bf16, true});
    shapes.push_back({"(x A^T) B^T up, added", kTokens, 3072, rank, bf16, true});
    shapes.push_back({"dA", rank, 768, kTokens, fp32});
    shapes.push_back({"dA mlp down", rank, 3072, kTokens, fp32});
    shapes.push_back({"dB", 768, rank, kTokens, fp32});
    for (const std::int64_t width : {1024, 1600, 4096, 6400}) shapes.push_back({"dA", rank, width, kTokens, fp32});
  }
  const std::size_t planned = shapes.size();
  for (std::size_t i = 0; i < planned; ++i) {  // and what CUTLASS's tiles take for the products with a narrow side
    Shape other = shapes[i];
    if (std::min(other.m, other.n) > kMaxNarrowRows) continue;
    other.path = MatmulPath::kCutlass;
    shapes.push_back(other);
  }
  cublasLtHandle_t handle = nullptr;
  QAT_BENCH_CUBLAS(cublasLtCreate(&handle));
  cudaDeviceProp device{};
  QAT_CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  std::printf("%s\n%-22s %6s %5s %6s %5s  %-20s %8s %8s %7s %9s | %9s %9s %7s\n", device.name, "product", "M", "N", "K",
              "y", "kernel", "ms", "TFLOP/s", "% peak", "TB/s", "bf16 ms", "TFLOP/s", "times");
  for (const Shape& s : shapes) {
    std::string kernel;
    const double ms = code_matmul_ms(s, kernel), other = bf16_ms(handle, s);
    const auto product = [](std::int64_t x, std::int64_t y) { return static_cast<double>(x) * static_cast<double>(y); };
    const double flop = 2.0 * product(s.m, s.n) * static_cast<double>(s.k);
    const double bytes = product(s.m, s.k) + product(s.n, s.k) +
                         product(s.m, s.n) * static_cast<double>(size_of(s.out)) * (s.accumulate ? 2.0 : 1.0);
    std::printf("%-22s %6lld %5lld %6lld %5s  %-20s %8.4f %8.1f %7.1f %9.2f | %9.4f %9.1f %7.2f\n", s.what,
                static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k),
                s.out == bf16 ? "bf16" : "fp32", kernel.c_str(), ms, flop / ms / 1e9,
                flop / ms / 1e9 / kInt8Peak * 100.0, bytes / ms / 1e9, other, flop / other / 1e9, other / ms);
    std::fflush(stdout);
  }
  (void)cublasLtDestroy(handle);
}

}  // namespace
}  // namespace qat::kernels

int main() {
  try {
    qat::kernels::run();
  } catch (const qat::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
  return 0;
}
