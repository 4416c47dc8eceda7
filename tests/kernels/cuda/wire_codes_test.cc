// The CUDA half of wire_codes.h against the CPU's, bit for bit.
#include "kernels/grad/wire_codes.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

struct Case {
  WireShape shape;
  bool feedback = false;
  WireRounding rounding{};
};

std::vector<float> floats_of(const std::vector<std::uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

void expect_equal(const Case& c) {
  const WireShape& shape = c.shape;
  std::vector<float> x = test::random_grid(shape.parts, shape.elems, 3).values;
  std::vector<float> residual;
  if (c.feedback) residual = test::random_grid(shape.parts, shape.elems, 4).values;
  if (x.size() > 700) x[700] = std::numeric_limits<float>::quiet_NaN();
  const auto blocks = static_cast<std::size_t>(shape.parts * shape.blocks());
  const auto bytes = static_cast<std::size_t>(shape.parts * shape.part_bytes());
  std::vector<float> amax(blocks), left(x.size()), sum(static_cast<std::size_t>(shape.elems));
  std::vector<std::uint8_t> messages(bytes);
  wire_amax(Exec{}, x, residual, shape, amax);
  wire_encode(Exec{}, x, residual, amax, shape, c.rounding, messages, left);
  wire_sum(Exec{}, messages, amax, shape, sum);

  const DeviceBuffer<float> d_x(x), d_residual(residual), d_amax(static_cast<std::int64_t>(blocks)), d_sum(shape.elems);
  const DeviceBuffer<std::uint8_t> d_messages(static_cast<std::int64_t>(bytes));
  wire_amax(cuda_exec(), d_x.span(), d_residual.span(), shape, d_amax.span());
  EXPECT_TRUE(test::same_bits(d_amax.download(), amax));
  wire_encode(cuda_exec(), d_x.span(), d_residual.span(), d_amax.span(), shape, c.rounding, d_messages.span(),
              d_x.span());
  // A NaN is a NaN: which one x + residual is depends on the device.
  if (shape.format == WireFormat::kFloat32)
    EXPECT_TRUE(test::same_bits(floats_of(d_messages.download()), floats_of(messages)));
  else
    EXPECT_EQ(d_messages.download(), messages);
  EXPECT_TRUE(test::same_bits(d_x.download(), left));
  wire_sum(cuda_exec(), d_messages.span(), d_amax.span(), shape, d_sum.span());
  EXPECT_TRUE(test::same_bits(d_sum.download(), sum));
  if (!has_codes(shape.format)) return;
  const std::span<const float> shared(amax.data(), static_cast<std::size_t>(shape.blocks()));
  const WireInteger type = integer_of(shape.format);
  scale_codes(Exec{}, messages, type, shape.parts, shared, shape, sum);
  scale_codes(cuda_exec(), d_messages.span(), type, shape.parts, d_amax.span().first(shared.size()), shape,
              d_sum.span());
  EXPECT_TRUE(test::same_bits(d_sum.download(), sum));
  for (const WireInteger wide : {WireInteger::kInt16, WireInteger::kInt32}) {
    std::vector<std::uint8_t> sums(static_cast<std::size_t>(bytes_of(wide, shape.elems)));
    sum_codes(Exec{}, messages, type, shape.parts, shape.elems, sums, wide);
    const DeviceBuffer<std::uint8_t> d_sums(static_cast<std::int64_t>(sums.size()));
    sum_codes(cuda_exec(), d_messages.span(), type, shape.parts, shape.elems, d_sums.span(), wide);
    EXPECT_EQ(d_sums.download(), sums);
  }
}

TEST(WireCodesCuda, EqualTheCpu) {
  for (const WireFormat format : {WireFormat::kFloat32, WireFormat::kBFloat16, WireFormat::kInt8, WireFormat::kInt4})
    for (const std::int64_t parts : {1, 2, 3, 8, 70})
      for (const std::int64_t elems : {1, 5, 1000, 4096, 10007})
        for (const std::int64_t block : {7, 256, 2048})
          for (const bool feedback : {false, true}) {
            SCOPED_TRACE(std::to_string(static_cast<int>(format)) + ": " + std::to_string(parts) + " parts of " +
                         std::to_string(elems) + ", blocks of " + std::to_string(block));
            expect_equal(
                {.shape = {.format = format, .parts = parts, .elems = elems, .block = block}, .feedback = feedback});
          }
}

TEST(WireCodesCuda, DrawsEqualTheCpus) {
  for (const WireFormat format : {WireFormat::kInt8, WireFormat::kInt4})
    expect_equal({.shape = {.format = format, .parts = 6, .elems = 4099, .places = 3},
                  .rounding = {.stochastic = true, .key = {.seed = 5, .stream = 7}, .first = std::uint64_t{3} << 40}});
}

}  // namespace
}  // namespace qat::kernels
