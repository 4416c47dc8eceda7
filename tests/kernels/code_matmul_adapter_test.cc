#include <gtest/gtest.h>

#include "kernels/gemm/code_matmul_coded_adapter.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;

TEST(CodeMatmulAdapter, IsTheProductWithTheTermInsideTheScales) {
  const Grid<std::int8_t> a(2, 3, {1, 2, 3, -4, 5, 6}), b(2, 3, {7, -8, 9, 10, 11, 12});
  const Grid<float> h(2, 1, {0.5F, -2.0F}), t(2, 1, {4.0F, 8.0F});
  const std::vector<float> rows = {0.5F, 2.0F}, cols = {0.25F, 1.0F}, bias = {100.0F, 200.0F};
  Grid<float> y(2, 2);
  // sums: 7 - 16 + 27 = 18, 10 + 22 + 36 = 68; -28 - 40 + 54 = -14, -40 + 55 + 72 = 87
  code_matmul_adapter({}, a.view(), b.view(), {rows, cols, bias, false}, {h.view(), t.view()}, y.view());
  EXPECT_EQ(y.values, (std::vector<float>{100.0F + 0.125F * (18 + 2), 200.0F + 0.5F * (68 + 4),
                                          100.0F + 0.5F * (-14 - 8), 200.0F + 2.0F * (87 - 16)}));
}

TEST(CodeMatmulCodedAdapter, MakesTheTermOfTheAdaptersCodes) {
  const Grid<std::int8_t> x(2, 3, {1, 2, 3, -4, 5, 6}), b(2, 3, {7, -8, 9, 10, 11, 12}), a(1, 3, {1, 0, -1});
  const Grid<float> t(2, 1, {4.0F, 8.0F});
  const std::vector<float> rows = {0.5F, 2.0F}, cols = {0.25F, 1.0F}, bias = {100.0F, 200.0F}, a_scales = {0.125F};
  Grid<float> y(2, 2);
  ASSERT_TRUE(takes_coded_adapter({}, 2, 2, 3, 1, DType::kFloat32));
  code_matmul_coded_adapter({}, x.view(), b.view(), {rows, cols, bias, false}, {a.view(), a_scales, t.view()}, y.view(),
                            {});
  // h: (1 - 3) / 8 and (-4 - 6) / 8; sums as above
  EXPECT_EQ(y.values, (std::vector<float>{100.0F + 0.125F * (18 - 1), 200.0F + 0.5F * (68 - 2),
                                          100.0F + 0.5F * (-14 - 5), 200.0F + 2.0F * (87 - 10)}));
}

TEST(CodeMatmulAdapter, RefusesOperandsThatDoNotFit) {
  const Grid<std::int8_t> a(2, 3), b(2, 3);
  const Grid<float> h(2, 2), t(2, 1);
  const std::vector<float> one = {1.0F};
  Grid<float> y(2, 2);
  const auto call = [&](bool accumulate, const Grid<float>& left) {
    return test::error_of(ErrorKind::kInternal, [&] {
      code_matmul_adapter({}, a.view(), b.view(), {one, one, {}, accumulate}, {left.view(), t.view()}, y.view());
    });
  };
  EXPECT_NE(call(false, h).find("[2, 2] and [2, 1]"), std::string::npos);
  EXPECT_NE(call(true, t).find("overwrites y"), std::string::npos);
}

}  // namespace
}  // namespace qat::kernels
