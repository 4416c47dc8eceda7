// Many matrices encoded by one call.
#include "kernels/quant/encode_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

TEST(EncodeBatch, CodesEveryMatrixWithItsOwnOptions) {
  const Grid<float> a(2, 3, {127.0F, 0.5F, -1.5F, 254.0F, 5.0F, 0.0F});
  const Grid<float> b(1, 4, {3.0F, -1.0F, 1.6F, 0.0F});
  Grid<std::int8_t> a_codes(2, 3), a_transposed(3, 2), b_transposed(4, 1);
  std::vector<float> a_scales(2), b_scales(1);
  const std::vector<EncodeRowsJob> jobs{
      {a.view(), {}, {a_codes.view(), a_transposed.view()}, a_scales},
      {b.view(), {.width = BitWidth(3)}, {{}, b_transposed.view()}, b_scales},
  };
  encode_rows_batch(Exec{}, jobs);
  EXPECT_EQ(a_scales, (std::vector<float>{1.0F, 2.0F}));
  EXPECT_EQ(a_codes.values, (std::vector<std::int8_t>{127, 0, -2, 127, 2, 0}));
  EXPECT_EQ(a_transposed.values, (std::vector<std::int8_t>{127, 127, 0, 2, -2, 0}));
  EXPECT_EQ(b_scales, (std::vector<float>{1.0F}));
  EXPECT_EQ(b_transposed.values, (std::vector<std::int8_t>{3, -1, 2, 0}));
}

TEST(EncodeBatch, OfNothingDoesNothing) { encode_rows_batch(Exec{}, {}); }

TEST(EncodeBatch, RefusesWhatItsContractExcludes) {
  const Grid<float> x(4, 6);
  Grid<std::int8_t> codes(4, 6);
  std::vector<float> scales(4);
  const auto message = [&](const EncodeOptions& options, const CodesOut& out, std::span<float> row_scales) {
    const std::vector<EncodeRowsJob> jobs{{x.view(), {}, {codes.view(), {}}, scales},
                                          {x.view(), options, out, row_scales}};
    return test::error_of(ErrorKind::kInternal, [&] { encode_rows_batch(Exec{}, jobs); });
  };
  const CodesOut good{codes.view(), {}};
  EXPECT_THAT(message({.width = BitWidth(9)}, good, scales), HasSubstr("not 9"));
  EXPECT_THAT(message({.amax_floor = 0.0F}, good, scales), HasSubstr("must be positive"));
  EXPECT_THAT(message({}, {}, scales), HasSubstr("nowhere to write"));
  EXPECT_THAT(message({}, {{codes.view().data, 6, 4}, {}}, scales), HasSubstr("codes are [6, 4] for x of [4, 6]"));
  EXPECT_THAT(message({}, {{}, codes.view()}, scales), HasSubstr("transposed codes are [4, 6]"));
  EXPECT_THAT(message({}, good, std::span(scales).first(3)), HasSubstr("3 row scales"));
}

}  // namespace
}  // namespace qat::kernels
