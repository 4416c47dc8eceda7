#include "kernels/activation/dropout.h"

#include <gtest/gtest.h>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceFloats;
using test::Grid;

TEST(DropoutCuda, HasTheCpusBits) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 5}, {64, 768}, {1000, 1023}}) {
      Grid<float> x = test::random_grid(rows, cols, 3), want(rows, cols);
      x.values = test::rounded_to(x.values, dtype);
      const RngKey key{.seed = 9, .stream = 1ULL << 40U};
      dropout({}, x.view(), 0.3F, key, want.view());
      const DeviceFloats device_x(x.values, rows, cols, dtype), y(rows, cols, dtype);
      dropout(test::cuda_exec(), device_x.view(), 0.3F, key, y.view());
      EXPECT_TRUE(test::same_bits(y.download(), test::rounded_to(want.values, dtype))) << rows << " x " << cols;
      dropout(test::cuda_exec(), device_x.view(), 0.3F, key, device_x.view());
      EXPECT_TRUE(test::same_bits(device_x.download(), y.download())) << "in place";
    }
  }
}

}  // namespace
}  // namespace qat::kernels
