#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/cuda_device.h"
#include "kernels/gemm/code_matmul_coded_adapter.h"
#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

struct Shape {
  std::int64_t m, n, k, rank;
};

// h is as large as the sums of codes, so that neither part hides the other.
void compare(const Shape& s, bool with_bias, float h_size) {
  SCOPED_TRACE(std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k) + ", rank " +
               std::to_string(s.rank));
  const Grid<std::int8_t> a = test::random_codes(s.m, s.k, 1), b = test::random_codes(s.n, s.k, 2);
  Grid<float> h = test::random_grid(s.m, s.rank, 3), t = test::random_grid(s.n, s.rank, 4);
  for (float& value : h.values) value = test::rounded_to(value * h_size, DType::kBFloat16);
  for (float& value : t.values) value = test::rounded_to(value, DType::kBFloat16);
  const std::vector<float> rows = test::random_factors(s.m, 5), cols = test::random_factors(s.n, 6);
  std::vector<float> bias(static_cast<std::size_t>(s.n), 3.0F);
  if (!with_bias) bias.clear();
  Grid<float> want(s.m, s.n);
  code_matmul_adapter({}, a.view(), b.view(), {rows, cols, bias, false}, {h.view(), t.view()}, want.view());

  const DeviceBuffer<std::int8_t> da(a.values), db(b.values);
  const DeviceFloats dh(h.values, s.m, s.rank, DType::kBFloat16), dt(t.values, s.n, s.rank, DType::kBFloat16);
  const DeviceBuffer<float> drows(rows), dcols(cols), dbias(bias);
  const DeviceFloats y(s.m, s.n, DType::kBFloat16);
  ASSERT_TRUE(takes_adapter(test::cuda_exec(), s.n, s.k, s.rank, DType::kBFloat16));
  code_matmul_adapter(test::cuda_exec(), da.matrix(s.m, s.k), db.matrix(s.n, s.k),
                      {drows.span(), dcols.span(), dbias.span(), false}, {dh.view(), dt.view()}, y.view());
  const std::vector<float> got = y.download();
  for (std::size_t i = 0; i < got.size(); ++i) {
    // One rounding to bf16, and cancellation between the two parts.
    const float tolerance = std::abs(want.values[i]) * 0x1p-8F + 1e-3F * h_size + 1e-2F;
    ASSERT_NEAR(got[i], want.values[i], tolerance) << "element " << i;
  }
}

TEST(CodeMatmulAdapterCuda, IsTheCpusProduct) {
  if (cuda_device_info(0).major != 9) GTEST_SKIP() << "needs sm_90";
  for (const Shape& shape :
       {Shape{128, 128, 128, 16}, Shape{1, 8, 16, 8}, Shape{300, 200, 96, 24}, Shape{256, 768, 768, 16},
        Shape{1000, 2304, 768, 64}, Shape{513, 768, 3072, 32}, Shape{640, 1600, 1600, 40}})
    for (const bool with_bias : {false, true}) compare(shape, with_bias, /*h_size=*/100.0F);
}

TEST(CodeMatmulAdapterCuda, WithoutATermHasTheBitsOfThePlainProduct) {
  if (cuda_device_info(0).major != 9) GTEST_SKIP() << "needs sm_90";
  const std::int64_t m = 1000, n = 768, k = 768;
  const Grid<std::int8_t> a = test::random_codes(m, k, 1), b = test::random_codes(n, k, 2);
  const DeviceBuffer<std::int8_t> da(a.values), db(b.values);
  const DeviceFloats h(std::vector<float>(static_cast<std::size_t>(m * 16)), m, 16, DType::kBFloat16);
  const DeviceFloats t(std::vector<float>(static_cast<std::size_t>(n * 16), 1.0F), n, 16, DType::kBFloat16);
  const DeviceBuffer<float> rows(test::random_factors(m, 5)), cols(test::random_factors(n, 6));
  const CodeMatmulEpilogue epilogue{rows.span(), cols.span(), {}, false};
  const DeviceFloats with(m, n, DType::kBFloat16), without(m, n, DType::kBFloat16);
  code_matmul_adapter(test::cuda_exec(), da.matrix(m, k), db.matrix(n, k), epilogue, {h.view(), t.view()}, with.view());
  code_matmul(test::cuda_exec(), da.matrix(m, k), db.matrix(n, k), epilogue, without.view());
  EXPECT_TRUE(test::same_bits(with.download(), without.download()));
}

TEST(CodeMatmulAdapterCuda, ServesManyTilesARun) {
  if (cuda_device_info(0).major != 9) GTEST_SKIP() << "needs sm_90";
  for (int run = 0; run < 3; ++run) compare({2048, 3072, 768, 16}, true, 10.0F);
}

// The product that makes h on the way, beside the two products that it stands for.
void compare_coded(const Shape& s, bool with_bias, float t_size) {
  SCOPED_TRACE(std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k) + ", rank " +
               std::to_string(s.rank));
  const kernels::Exec exec = test::cuda_exec();
  const DeviceBuffer<std::int8_t> x(test::random_codes(s.m, s.k, 1).values), b(test::random_codes(s.n, s.k, 2).values),
      a(test::random_codes(s.rank, s.k, 3).values);
  std::vector<float> values = test::random_grid(s.n, s.rank, 4).values;
  for (float& value : values) value = test::rounded_to(value * t_size, DType::kBFloat16);
  const DeviceFloats t(values, s.n, s.rank, DType::kBFloat16);
  const DeviceBuffer<float> one(std::vector<float>{1.0F}), rows(test::random_factors(s.m, 5)),
      cols(test::random_factors(s.n, 6)), a_scales(test::random_factors(s.rank, 7)),
      bias(std::vector<float>(static_cast<std::size_t>(with_bias ? s.n : 0), 3.0F));
  const CodeMatmulEpilogue epilogue{rows.span(), cols.span(), bias.span(), false};
  const DeviceFloats h(s.m, s.rank, DType::kBFloat16), two(s.m, s.n, DType::kBFloat16),
      at_once(s.m, s.n, DType::kBFloat16);
  code_matmul(exec, x.matrix(s.m, s.k), a.matrix(s.rank, s.k), {one.span(), a_scales.span(), {}, false}, h.view());
  code_matmul_adapter(exec, x.matrix(s.m, s.k), b.matrix(s.n, s.k), epilogue, {h.view(), t.view()}, two.view());
  ASSERT_TRUE(takes_coded_adapter(exec, s.m, s.n, s.k, s.rank, DType::kBFloat16));
  const DeviceBuffer<std::int32_t> scratch(
      std::vector<std::int32_t>(static_cast<std::size_t>(coded_adapter_scratch(exec, s.m, s.n, s.k, s.rank)), -12345));
  code_matmul_coded_adapter(exec, x.matrix(s.m, s.k), b.matrix(s.n, s.k), epilogue,
                            {a.matrix(s.rank, s.k), a_scales.span(), t.view()}, at_once.view(), scratch.span());
  const std::vector<float> want = two.download(), got = at_once.download();
  if (t_size == 0.0F) {
    EXPECT_TRUE(test::same_bits(got, want)) << "without a term only exact sums are scaled";
  }
  float largest = 0.0F;
  for (const float value : want) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], std::abs(want[i]) * 0x1p-7F + largest * 1e-5F) << "element " << i;
}

TEST(CodeMatmulCodedAdapterCuda, IsTheTwoProducts) {
  if (cuda_device_info(0).major != 9) GTEST_SKIP() << "needs sm_90";
  for (const Shape& shape :
       {Shape{1, 8, 16, 8}, Shape{3, 200, 96, 24}, Shape{17, 768, 768, 16}, Shape{32, 768, 3072, 16},
        Shape{32, 2304, 768, 64}, Shape{33, 3072, 768, 32}, Shape{64, 1600, 1600, 40}, Shape{16, 6400, 1600, 16}})
    for (const bool with_bias : {false, true})
      for (const float t_size : {0.0F, 0.01F}) compare_coded(shape, with_bias, t_size);
  EXPECT_FALSE(takes_coded_adapter(test::cuda_exec(), 65, 768, 768, 16, DType::kBFloat16)) << "too many rows";
}

}  // namespace
}  // namespace qat::kernels
