#include "kernels/attention/cached_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/support/attention_data.h"
#include "tests/support/device_buffer.h"

namespace qat::kernels {
namespace {

using test::AttentionCase;
using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

struct Shape {
  std::int64_t sequences, heads, head_width, capacity;
};
constexpr Shape kShapes[] = {{1, 1, 1, 1},   {3, 2, 20, 37},  {32, 12, 64, 300}, {5, 3, 7, 513},
                             {2, 25, 64, 1}, {4, 16, 64, 96}, {2, 2, 256, 40},   {3, 1, 64, 20000}};

class CachedAttentionCuda : public ::testing::TestWithParam<std::tuple<Shape, DType, bool>> {};

// fp32: as exact as the exponential; bf16: the result's rounding.
TEST_P(CachedAttentionCuda, AgreesWithTheCpu) {
  const auto [shape, dtype, coded] = GetParam();
  AttentionCase one(shape.sequences, shape.heads, shape.head_width, shape.capacity);
  one.q.values = test::rounded_to(one.q.values, dtype);
  one.values.values = test::rounded_to(one.values.values, dtype);
  const Grid<float> want = one.on_cpu(coded ? one.coded() : one.floats());
  const std::int64_t width = one.q.cols;
  // The query as a column of wider rows, as it stands beside keys and values.
  Grid<float> wide(shape.sequences, 3 * width, std::nanf(""));
  for (std::int64_t b = 0; b < shape.sequences; ++b)
    std::copy_n(one.q.values.begin() + b * width, width, wide.values.begin() + b * 3 * width);
  const DeviceFloats q(wide.values, wide.rows, wide.cols, dtype), y(shape.sequences, width, dtype);
  const DeviceFloats values(one.values.values, one.values.rows, one.values.cols, dtype);
  const DeviceBuffer<std::int8_t> codes(one.codes.values);
  const DeviceBuffer<float> scales(one.scales);
  const DeviceBuffer<std::int64_t> lengths(one.lengths);
  KeptTokens kept{
      .data = values.view().data, .dtype = dtype, .scales = {}, .capacity = shape.capacity, .lengths = lengths.span()};
  if (coded) kept.data = codes.data(), kept.dtype = DType::kInt8, kept.scales = scales.span();
  cached_attention(test::cuda_exec(), {q.view().data, shape.sequences, width, 3 * width, dtype}, kept, shape.heads,
                   y.view());
  const std::vector<float> got = y.download();
  const float tolerance = one.largest_value() * (dtype == DType::kBFloat16 ? 1.0F / 128 : 5e-5F);
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want.values[i], tolerance) << i;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CachedAttentionCuda,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16), ::testing::Bool()));

// What a sequence gets depends on nothing beside it.
TEST(CachedAttentionCuda, ASequenceHasTheSameBitsAlone) {
  const AttentionCase all(3, 2, 64, 90);
  const auto run = [](const AttentionCase& one) {
    const DeviceFloats q(one.q.values, one.q.rows, one.q.cols, DType::kBFloat16),
        y(one.q.rows, one.q.cols, DType::kBFloat16);
    const DeviceBuffer<std::int8_t> codes(one.codes.values);
    const DeviceBuffer<float> scales(one.scales);
    const DeviceBuffer<std::int64_t> lengths(one.lengths);
    cached_attention(test::cuda_exec(), q.view(),
                     {.data = codes.data(),
                      .dtype = DType::kInt8,
                      .scales = scales.span(),
                      .capacity = one.capacity,
                      .lengths = lengths.span()},
                     one.heads, y.view());
    return Grid<float>(one.q.rows, one.q.cols, y.download());
  };
  const Grid<float> want = run(all);
  for (std::int64_t row = 0; row < 3; ++row) {
    const Grid<float> got = run(all.only(row, /*room=*/200));
    EXPECT_TRUE(test::same_bits(got.row(0), want.row(row))) << row;
  }
}

}  // namespace
}  // namespace qat::kernels
