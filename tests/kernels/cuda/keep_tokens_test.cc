#include "kernels/attention/keep_tokens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

// The same bits as on a CPU, of keys and values that stand in wider rows; a NaN and an infinity mark theirs.
TEST(KeepTokensCuda, GiveTheCpusBits) {
  struct Shape {
    std::int64_t tokens, width;
  };
  for (const Shape& shape : {Shape{1, 1}, {3, 20}, {32, 768}, {5, 1600}, {2, 257}})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
      for (const int bits : {2, 4, 8}) {
        SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width << " at " << bits);
        const std::int64_t kept = shape.tokens + 3;
        Grid<float> wide = test::random_grid(shape.tokens, 3 * shape.width, 1);
        wide.values = test::rounded_to(wide.values, dtype);
        if (shape.tokens > 2) wide.at(0, shape.width) = std::nanf(""), wide.at(2, 2 * shape.width) = INFINITY;
        std::vector<std::int64_t> rows(static_cast<std::size_t>(shape.tokens));
        std::iota(rows.rbegin(), rows.rend(), 2);
        Grid<std::int8_t> want(kept, 2 * shape.width, std::int8_t{-1});
        std::vector<float> want_scales(static_cast<std::size_t>(2 * kept), std::nanf(""));
        keep_tokens({},
                    {wide.values.data() + shape.width, shape.tokens, 2 * shape.width, 3 * shape.width, DType::kFloat32},
                    BitWidth(bits), rows, want.view(), want_scales);
        const DeviceFloats x(wide.values, wide.rows, wide.cols, dtype);
        const DeviceBuffer<std::int8_t> codes(want.rows * want.cols);  // of -1
        const DeviceBuffer<float> scales(2 * kept);                    // of NaN
        const DeviceBuffer<std::int64_t> on_device(rows);
        const auto* first =
            static_cast<const char*>(x.view().data) + shape.width * static_cast<std::int64_t>(size_of(dtype));
        keep_tokens(test::cuda_exec(), {first, shape.tokens, 2 * shape.width, 3 * shape.width, dtype}, BitWidth(bits),
                    on_device.span(), codes.matrix(want.rows, want.cols), scales.span());
        EXPECT_EQ(codes.download(), want.values);
        EXPECT_TRUE(test::same_bits(scales.download(), want_scales));
      }
}

// Whole pieces of 16 bytes, and tokens that are none or begin within one.
TEST(KeepTokensCuda, AsFloatsAreWhatTheyWere) {
  struct Shape {
    std::int64_t tokens, cols, first, stride;
  };
  for (const Shape& shape : {Shape{32, 1536, 768, 2304}, {3, 20, 10, 30}, {2, 16, 1, 40}, {1, 2, 0, 2}})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.cols << " from " << shape.first);
      Grid<float> wide = test::random_grid(shape.tokens, shape.stride, 1);
      wide.values = test::rounded_to(wide.values, dtype);
      std::vector<std::int64_t> rows(static_cast<std::size_t>(shape.tokens));
      std::iota(rows.rbegin(), rows.rend(), 2);
      Grid<float> want(shape.tokens + 3, shape.cols, 7.0F);
      for (std::int64_t b = 0; b < shape.tokens; ++b)
        for (std::int64_t c = 0; c < shape.cols; ++c)
          want.at(rows[static_cast<std::size_t>(b)], c) = wide.at(b, shape.first + c);
      const DeviceFloats x(wide.values, wide.rows, wide.cols, dtype);
      const DeviceFloats kept(std::vector<float>(want.values.size(), 7.0F), want.rows, want.cols, dtype);
      const DeviceBuffer<std::int64_t> on_device(rows);
      const auto* from =
          static_cast<const char*>(x.view().data) + shape.first * static_cast<std::int64_t>(size_of(dtype));
      keep_tokens(test::cuda_exec(), {from, shape.tokens, shape.cols, shape.stride, dtype}, on_device.span(),
                  kept.view());
      EXPECT_EQ(kept.download(), want.values);
    }
}

}  // namespace
}  // namespace qat::kernels
