// Many matrices encoded by one call on a GPU against the CPU, bit for bit.
#include "kernels/quant/encode_batch.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

// One job on both devices.
struct Encoded {
  Encoded(Grid<float> x_in, const EncodeOptions& options_in, bool with_codes, bool with_transposed,
          DType dtype = DType::kFloat32)
      : x(std::move(x_in)),
        options(options_in),
        plain(with_codes),
        transposed(with_transposed),
        codes(x.rows, x.cols),
        codes_transposed(x.cols, x.rows),
        scales(static_cast<std::size_t>(x.rows)),
        device_x(x.values, x.rows, x.cols, dtype),
        device_codes(x.rows * x.cols),
        device_transposed(x.rows * x.cols),
        device_scales(x.rows) {
    x.values = test::rounded_to(x.values, dtype);
  }

  EncodeRowsJob host() {
    return {
        std::as_const(x).view(),
        options,
        {plain ? codes.view() : Matrix<std::int8_t>{}, transposed ? codes_transposed.view() : Matrix<std::int8_t>{}},
        scales};
  }
  EncodeRowsJob device() const {
    return {device_x.view(),
            options,
            {plain ? device_codes.matrix(x.rows, x.cols) : Matrix<std::int8_t>{},
             transposed ? device_transposed.matrix(x.cols, x.rows) : Matrix<std::int8_t>{}},
            device_scales.span()};
  }
  void compare() const {
    SCOPED_TRACE(std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", " + std::to_string(options.width.bits()) +
                 " bits");
    EXPECT_TRUE(test::same_bits(device_scales.download(), scales));
    const std::vector<std::int8_t> untouched(static_cast<std::size_t>(x.rows * x.cols), -1);
    EXPECT_TRUE(device_codes.download() == (plain ? codes.values : untouched)) << "codes";
    EXPECT_TRUE(device_transposed.download() == (transposed ? codes_transposed.values : untouched)) << "transposed";
  }

  Grid<float> x;
  EncodeOptions options;
  bool plain, transposed;
  Grid<std::int8_t> codes, codes_transposed;
  std::vector<float> scales;
  DeviceFloats device_x;
  DeviceBuffer<std::int8_t> device_codes, device_transposed;
  DeviceBuffer<float> device_scales;
};

using Batch = std::vector<std::unique_ptr<Encoded>>;

void compare(const Batch& batch) {
  std::vector<EncodeRowsJob> host, device;
  for (const auto& one : batch) {
    host.push_back(one->host());
    device.push_back(one->device());
  }
  encode_rows_batch(Exec{}, host);
  encode_rows_batch(test::cuda_exec(), device);
  for (const auto& one : batch) one->compare();
}

std::unique_ptr<Encoded> job(std::int64_t rows, std::int64_t cols, int bits, bool codes = true,
                             bool transposed = true) {
  return std::make_unique<Encoded>(test::random_grid(rows, cols, static_cast<unsigned>(rows + cols)),
                                   EncodeOptions{.width = BitWidth(bits)}, codes, transposed);
}

TEST(EncodeBatchCuda, EqualsTheCpuForMatricesOfManyShapes) {
  Batch batch;
  int bits = 2;
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {768, 768}, {2304, 768}, {64, 3072}, {100, 1600}, {208, 6400}, {80, 7040}, {33, 4800},
           {1, 8},     {65, 16},    {64, 264},  {31, 1032},  {96, 2048},  {48, 5128}, {17, 520},
           {129, 24},  {160, 6400}, {72, 3072}, {127, 1600}, {16, 8192},  {0, 64}}) {
    batch.push_back(job(rows, cols, bits));
    bits = bits == 8 ? 2 : bits + 1;
  }
  compare(batch);
}

TEST(EncodeBatchCuda, LeavesOutWhatIsNotWanted) {
  Batch batch;
  for (const std::int64_t cols : {768, 3072, 6400, 8192}) {
    batch.push_back(job(70, cols, 8, /*codes=*/true, /*transposed=*/false));
    batch.push_back(job(70, cols, 8, /*codes=*/false, /*transposed=*/true));
  }
  compare(batch);
}

TEST(EncodeBatchCuda, TakesMoreMatricesThanOneLaunchDoes) {
  Batch batch;
  for (int i = 0; i < 300; ++i) batch.push_back(job(1 + i % 70, 8 + 8 * (i % 11), 2 + i % 7));
  compare(batch);
}

TEST(EncodeBatchCuda, HandsToEncodeRowsWhatItsKernelDoesNotTake) {
  const EncodeOptions stochastic{.rounding = Rounding::kStochastic, .key = {5, 6}};
  Batch batch;
  batch.push_back(job(40, 768, 8));
  batch.push_back(job(40, 77, 8));    // columns of no whole vectors
  batch.push_back(job(35, 9000, 8));  // too wide
  batch.push_back(std::make_unique<Encoded>(test::random_grid(48, 776, 1), stochastic, true, true));
  batch.push_back(
      std::make_unique<Encoded>(test::random_grid(48, 776, 2), EncodeOptions{}, true, true, DType::kBFloat16));
  batch.push_back(job(64, 1600, 5));
  compare(batch);
}

TEST(EncodeBatchCuda, TreatsZerosAndNonFiniteRowsAsTheCpuDoes) {
  Batch batch;
  for (const std::int64_t cols : {768, 1600, 6400}) {
    Grid<float> x = test::random_grid(66, cols, 5);
    x.at(0, 3) = std::numeric_limits<float>::infinity();
    x.at(40, cols - 1) = -std::numeric_limits<float>::quiet_NaN();
    x.at(65, cols / 2) = -std::numeric_limits<float>::infinity();
    for (std::int64_t c = 0; c < cols; ++c) {
      x.at(2, c) = c % 2 == 0 ? 0.0F : -0.0F;
      x.at(4, c) *= 1e36F;
    }
    batch.push_back(std::make_unique<Encoded>(std::move(x), EncodeOptions{}, true, true));
  }
  compare(batch);
}

}  // namespace
}  // namespace qat::kernels
