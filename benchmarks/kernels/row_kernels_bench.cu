// Speed of the kernels that read rows on the GPU, bf16, against the bytes they must move: the median of 20 calls by
// CUDA events, GB/s of those bytes, and their share of the 3.0 TB/s that an H100's memory gives.
//   build/row_kernels_bench
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/activation/gelu.h"
#include "kernels/common/device_scratch.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/adapter_backward.h"
#include "kernels/loss/softmax_cross_entropy.h"
#include "kernels/norm/residual_norm.h"
#include "kernels/quant/encode.h"
#include "kernels/quant/encode_gradient.h"

namespace qat::kernels {
namespace {

const Exec kExec{.device = Device::kCuda};

__device__ unsigned hash(unsigned x) {
  x = (x ^ (x >> 16)) * 0x7FEB352DU;
  x = (x ^ (x >> 15)) * 0x846CA68BU;
  return x ^ (x >> 16);
}
// Roughly normal: three uniforms added.
template <typename T>
__global__ void fill_kernel(T* to, std::int64_t n, unsigned seed) {
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const unsigned h = hash(static_cast<unsigned>(i) ^ seed * 0x9E3779B9U);
    const float value = static_cast<float>((h & 1023U) + (h >> 10 & 1023U) + (h >> 20 & 1023U)) / 512.0F - 3.0F;
    to[i] = static_cast<T>(value);
  }
}
// Token t with a chance near 1 / t, as words have.
__global__ void tokens_kernel(std::int64_t* to, std::int64_t n, std::int64_t vocabulary) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float u = static_cast<float>(hash(static_cast<unsigned>(i)) >> 8) / 16777216.0F;
  to[i] = min(static_cast<std::int64_t>(powf(static_cast<float>(vocabulary), u)), vocabulary) - 1;
}

template <typename T>
class Values {
 public:
  explicit Values(std::int64_t n, unsigned seed = 0) : memory_(kExec, n), n_(n) {
    if constexpr (!std::is_same_v<T, std::int8_t> && !std::is_same_v<T, std::int64_t>) {
      fill_kernel<<<2048, 256>>>(memory_.get(), n, seed);
      QAT_CUDA_CHECK(cudaGetLastError());
    }
  }
  T* data() const { return memory_.get(); }
  std::span<T> span() const { return {data(), static_cast<std::size_t>(n_)}; }

 private:
  DeviceScratch<T> memory_;
  std::int64_t n_;
};

struct Half {  // a bf16 matrix
  Values<__nv_bfloat16> values;
  std::int64_t rows, cols;
  Half(std::int64_t rows_in, std::int64_t cols_in, unsigned seed)
      : values(rows_in * cols_in, seed), rows(rows_in), cols(cols_in) {}
  FloatMatrix view() const { return {values.data(), rows, cols, cols, DType::kBFloat16}; }
};

void measure(const char* name, std::int64_t rows, std::int64_t cols, double bytes, const std::function<void()>& call) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  QAT_CUDA_CHECK(cudaEventCreate(&begin));
  QAT_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    QAT_CUDA_CHECK(cudaEventRecord(begin));
    call();
    QAT_CUDA_CHECK(cudaEventRecord(end));
    QAT_CUDA_CHECK(cudaEventSynchronize(end));
    float milliseconds = 0.0F;
    QAT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 3) times.push_back(milliseconds);
  }
  QAT_CUDA_CHECK(cudaEventDestroy(begin));
  QAT_CUDA_CHECK(cudaEventDestroy(end));
  std::nth_element(times.begin(), times.begin() + 10, times.end());
  const double speed = bytes / (times[10] * 1e6);
  std::printf("%-34s %6lld x %-6lld %8.4f ms %8.0f GB/s %5.1f %%\n", name, static_cast<long long>(rows),
              static_cast<long long>(cols), times[10], speed, speed / 30.0);
}

void bench_shape(std::int64_t rows, std::int64_t cols) {
  const double n = static_cast<double>(rows) * static_cast<double>(cols);
  const Half x(rows, cols, 1), dy(rows, cols, 2), out(rows, cols, 3);
  const Values<std::int8_t> codes(rows * cols), transposed(rows * cols);
  const Values<float> row_a(rows), row_b(rows), row_c(rows), col_a(cols, 4), col_b(cols, 5), col_c(cols), col_d(cols);
  const CodesOut both{{codes.data(), rows, cols}, {transposed.data(), cols, rows}};
  const NormParameters parameters{col_a.span(), col_b.span()};

  measure("residual_norm, codes", rows, cols, 8 * n, [&] {
    residual_norm(kExec, x.view(), dy.view(), parameters, {},
                  {out.view(), {}, both, row_a.span(), row_b.span(), row_c.span()});
  });
  measure("residual_norm, floats", rows, cols, 8 * n, [&] {
    residual_norm(kExec, x.view(), dy.view(), parameters, {},
                  {out.view(), dy.view(), {}, {}, row_b.span(), row_c.span()});
  });
  measure("residual_norm_backward", rows, cols, 8 * n, [&] {
    residual_norm_backward(kExec, dy.view(), {x.view(), row_b.span(), row_c.span(), col_a.span()}, out.view(),
                           out.view(), col_c.span(), col_d.span());
  });
  measure("gelu", rows, cols, 4 * n, [&] { gelu(kExec, x.view(), out.view()); });
  measure("gelu_encode", rows, cols, 4 * n, [&] { gelu_encode(kExec, x.view(), {}, both, row_a.span()); });
  measure("gelu_backward", rows, cols, 6 * n, [&] { gelu_backward(kExec, dy.view(), x.view(), out.view()); });
  measure("encode_rows", rows, cols, 4 * n, [&] { encode_rows(kExec, x.view(), {}, both, row_a.span()); });

  const EncodeOptions stochastic{.amax_floor = kGradientAmaxFloor, .rounding = Rounding::kStochastic};
  for (const bool random : {false, true}) {
    const EncodeOptions options = random ? stochastic : EncodeOptions{.amax_floor = kGradientAmaxFloor};
    const GradientEncoding encoding{col_a.span(), row_c.span(), options, options};
    const GradientCodes to{both.codes, row_a.span(), both.codes_transposed, col_c.span(), col_d.span()};
    measure(random ? "encode_gradient, stochastic" : "encode_gradient", rows, cols, 6 * n, [&] {
      encode_gradient(kExec, {{dy.view()}, 1}, encoding, to);
    });
    if (cols % 3 == 0) {
      const std::int64_t third = cols / 3;
      const auto part = [&](std::int64_t i) {
        return ConstFloatMatrix(dy.values.data() + i * rows * third, rows, third, third, DType::kBFloat16);
      };
      measure(random ? "encode_gradient, 3 parts, stoch." : "encode_gradient, 3 parts", rows, cols, 6 * n, [&] {
        encode_gradient(kExec, {{part(0), part(1), part(2)}, 3}, encoding, to);
      });
    }
    measure(random ? "encode_gelu_gradient, stochastic" : "encode_gelu_gradient", rows, cols, 10 * n,
            [&] { encode_gelu_gradient(kExec, dy.view(), x.view(), out.view(), encoding, to); });
  }
}

// Against the bytes of the output gradient alone, and of its column codes where they are wanted.
void bench_adapter(std::int64_t rows, std::int64_t cols, std::int64_t rank) {
  const Half g(rows, cols, 1), b(cols, rank, 2), h(rows, rank, 3), dx_term(rows, rank, 4);
  const Values<float> x_scales(rows, 5), a_scales(rank, 6), g_scales(rows, 7), db(cols * rank), dh_scales(rank);
  const Values<std::int8_t> dh_cols(rank * rows), g_cols(rows * cols);
  const Values<float> g_col_scales(cols);
  const EncodeOptions options{.amax_floor = kGradientAmaxFloor, .rounding = Rounding::kStochastic};
  const AdapterBackwardOperands operands{b.view(),        h.view(),        x_scales.span(),
                                         a_scales.span(), g_scales.span(), /*scaling=*/2.0F};
  const AdapterGradients out{{db.data(), cols, rank}, dx_term.view(), {dh_cols.data(), rank, rows}, dh_scales.span()};
  const std::string name = "adapter_backward, rank " + std::to_string(rank);
  const double n = static_cast<double>(rows) * static_cast<double>(cols);
  measure(name.c_str(), rows, cols, 2 * n, [&] {
    adapter_backward(kExec, {{g.view()}, 1}, operands, {options, options, options}, out);
  });
  encode_gradient(kExec, {{g.view()}, 1}, {{}, x_scales.span(), {}, options}, {{}, {}, {}, g_col_scales.span(), {}});
  const AdapterColumns columns{options, g_col_scales.span(), {g_cols.data(), cols, rows}};
  measure((name + ", columns").c_str(), rows, cols, 3 * n, [&] {
    adapter_backward(kExec, {{g.view()}, 1}, operands, {options, options, options}, out, columns);
  });
}

void bench_embedding(std::int64_t batch, std::int64_t length, std::int64_t cols) {
  const std::int64_t rows = batch * length;
  const std::int64_t vocabulary = 50257;
  const double n = static_cast<double>(rows) * static_cast<double>(cols);
  const Half x(rows, cols, 1);
  const Values<float> table(vocabulary * cols, 2), positions(length * cols, 3), gradient(vocabulary * cols, 4);
  const Values<std::int64_t> tokens(rows);
  tokens_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256>>>(tokens.data(), rows, vocabulary);
  QAT_CUDA_CHECK(cudaGetLastError());
  // Bytes of the activations alone: the share of the tables depends on the tokens.
  measure("embed", rows, cols, 2 * n, [&] {
    embed(kExec, tokens.span(), length, Matrix<const float>{table.data(), vocabulary, cols},
          Matrix<const float>{positions.data(), length, cols}, x.view());
  });
  measure("embed_backward, tokens", rows, cols, 2 * n, [&] {
    embed_backward(kExec, x.view(), tokens.span(), length, {gradient.data(), vocabulary, cols}, {});
  });
  measure("embed_backward, positions", rows, cols, 2 * n, [&] {
    embed_backward(kExec, x.view(), tokens.span(), length, {}, {positions.data(), length, cols});
  });
}

void bench_loss(std::int64_t rows, std::int64_t cols, std::int64_t classes) {
  const double n = static_cast<double>(rows) * static_cast<double>(cols);
  const Half logits(rows, cols, 1);
  const Values<float> losses(rows);
  const Values<std::int64_t> targets(rows);
  tokens_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256>>>(targets.data(), rows, classes);
  QAT_CUDA_CHECK(cudaGetLastError());
  measure("softmax_cross_entropy", rows, cols, 2 * n,
          [&] { softmax_cross_entropy(kExec, logits.view(), classes, targets.span(), false, 1.0F, losses.span()); });
  measure("softmax_cross_entropy, gradient", rows, cols, 4 * n,
          [&] { softmax_cross_entropy(kExec, logits.view(), classes, targets.span(), true, 1.0F, losses.span()); });
}

}  // namespace
}  // namespace qat::kernels

int main() {
  qat::kernels::bench_shape(65536, 768);
  qat::kernels::bench_shape(65536, 3072);
  qat::kernels::bench_shape(16384, 1600);
  qat::kernels::bench_shape(16384, 6400);
  for (const std::int64_t rank : {16, 64}) {
    for (const std::int64_t cols : {768, 2304, 3072}) qat::kernels::bench_adapter(65536, cols, rank);
    for (const std::int64_t cols : {1600, 6400}) qat::kernels::bench_adapter(16384, cols, rank);
  }
  qat::kernels::bench_embedding(64, 1024, 768);
  qat::kernels::bench_loss(8192, 50304, 50257);
  return 0;
}
