// What products on codes read of adapters.
#include "kernels/quant/prepare_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

// An adapter of rank r beside a weight [n, k], and memory for its results.
struct Adapter {
  Adapter(Grid<float> a_in, Grid<float> b_in, std::vector<float> weight_scales_in)
      : a(std::move(a_in)),
        b(std::move(b_in)),
        weight_scales(std::move(weight_scales_in)),
        a_codes(a.rows, a.cols),
        a_scales(static_cast<std::size_t>(a.rows)),
        a_values(a.cols, a.rows),
        b_values(b.rows, b.cols),
        b_over_scales(b.rows, b.cols) {}
  Adapter(std::int64_t r, std::int64_t k, std::int64_t n)
      : Adapter(test::random_grid(r, k, 1), test::random_grid(n, r, 2), test::random_factors(n, 3)) {}

  AdapterJob job(int bits, float scaling) {
    return {.a = std::as_const(a).view(),
            .b = std::as_const(b).view(),
            .options = {.width = BitWidth(bits)},
            .weight_scales = weight_scales,
            .scaling = scaling,
            .a_codes = a_codes.view(),
            .a_scales = a_scales,
            .a_values = a_values.view(),
            .b_values = b_values.view(),
            .b_over_scales = b_over_scales.view()};
  }

  Grid<float> a, b;
  std::vector<float> weight_scales;
  Grid<std::int8_t> a_codes;
  std::vector<float> a_scales;
  Grid<float> a_values, b_values, b_over_scales;
};

TEST(PrepareAdapters, GivesTheOperandsOfASmallAdapter) {
  Adapter adapter({2, 3, {127.0F, 0.5F, -1.5F, 254.0F, 5.0F, 0.0F}}, {1, 2, {-254.0F, 3.0F}}, {0.25F});
  prepare_adapters(Exec{}, std::vector{adapter.job(8, 0.5F)});
  EXPECT_EQ(adapter.a_codes.values, (std::vector<std::int8_t>{127, 0, -2, 127, 2, 0}));
  EXPECT_EQ(adapter.a_scales, (std::vector<float>{1.0F, 2.0F}));
  EXPECT_EQ(adapter.a_values.values, (std::vector<float>{127, 127, 0, 2, -2, 0}));
  EXPECT_EQ(adapter.b_values.values, (std::vector<float>{-127.0F, 2.0F}));  // codes -127 and 2 (a tie) of scale 2
  EXPECT_EQ(adapter.b_over_scales.values, (std::vector<float>{-508.0F, 8.0F}));
}

TEST(PrepareAdapters, RoundsInTheOrderOfItsFormula) {
  const float scaling = 0.3F;
  Adapter first(8, 40, 33), second(16, 24, 7);
  prepare_adapters(Exec{}, std::vector{first.job(4, scaling), second.job(7, scaling)});
  for (const auto& [adapter, q_max] : {std::pair(&first, 7.0F), std::pair(&second, 63.0F)}) {
    for (std::int64_t n = 0; n < adapter->b.rows; ++n) {
      float largest = 0.0F;
      for (const float value : adapter->b.row(n)) largest = std::max(largest, std::fabs(value));
      const float scale = largest / q_max, inverse = 1.0F / scale, scaled = scale * scaling;
      const float over_scale = scaled / adapter->weight_scales[static_cast<std::size_t>(n)];
      for (std::int64_t j = 0; j < adapter->b.cols; ++j) {
        const float code = std::rint(adapter->b.at(n, j) * inverse);
        EXPECT_EQ(adapter->b_values.at(n, j), code * scaled) << n << ", " << j;
        EXPECT_EQ(adapter->b_over_scales.at(n, j), code * over_scale) << n << ", " << j;
      }
    }
    for (std::int64_t j = 0; j < adapter->a.rows; ++j)
      for (std::int64_t k = 0; k < adapter->a.cols; ++k) {
        const float scale = adapter->a_scales[static_cast<std::size_t>(j)];
        EXPECT_EQ(adapter->a_values.at(k, j), static_cast<float>(adapter->a_codes.at(j, k)));
        EXPECT_NEAR(adapter->a_values.at(k, j) * scale, adapter->a.at(j, k), scale * 0.5001F);
      }
  }
}

TEST(PrepareAdapters, MarksARowThatIsNotFinite) {
  Adapter adapter(8, 16, 3);
  adapter.b.at(1, 2) = INFINITY;
  adapter.a.at(5, 3) = NAN;
  prepare_adapters(Exec{}, std::vector{adapter.job(8, 2.0F)});
  EXPECT_TRUE(std::isnan(adapter.a_scales[5]));
  EXPECT_EQ(adapter.a_values.at(3, 5), 0.0F);
  for (std::int64_t j = 0; j < 8; ++j) {
    EXPECT_TRUE(std::isnan(adapter.b_values.at(1, j)) && std::isnan(adapter.b_over_scales.at(1, j)));
    EXPECT_TRUE(std::isfinite(adapter.b_values.at(2, j)));
  }
}

TEST(PrepareAdapters, RefusesWhatItsContractExcludes) {
  Adapter adapter(8, 16, 3);
  const auto message = [&](const auto& change) {
    AdapterJob job = adapter.job(8, 1.0F);
    change(job);
    return test::error_of(ErrorKind::kInternal, [&] { prepare_adapters(Exec{}, std::vector{job}); });
  };
  EXPECT_THAT(message([](AdapterJob& job) { job.b.cols = 4; }), HasSubstr("A is [8, 16], B is [3, 4]"));
  EXPECT_THAT(message([](AdapterJob& job) { job.options.width = BitWidth(9); }), HasSubstr("not 9"));
  EXPECT_THAT(message([](AdapterJob& job) { job.options.rounding = Rounding::kStochastic; }), HasSubstr("nearest"));
  EXPECT_THAT(message([](AdapterJob& job) { job.options.amax_floor = 1e-40F; }), HasSubstr("floor"));
  EXPECT_THAT(message([](AdapterJob& job) { job.weight_scales = job.weight_scales.first(1); }), HasSubstr("1 scales"));
  EXPECT_THAT(message([](AdapterJob& job) { job.a_codes.rows = 7; }), HasSubstr("codes are [7, 16]"));
  EXPECT_THAT(message([](AdapterJob& job) { job.a_values.rows = 8; }), HasSubstr("a_values is [8, 8]"));
  EXPECT_THAT(message([](AdapterJob& job) { job.b_values.stride = 9; }), HasSubstr("b_values is [3, 8]"));
  EXPECT_THAT(message([](AdapterJob& job) { job.b_over_scales.dtype = DType::kBFloat16; }), HasSubstr("dtype"));
}

}  // namespace
}  // namespace qat::kernels
