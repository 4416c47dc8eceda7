#include "kernels/optim/add_noise.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;

TEST(AddNoiseCuda, HasTheCpusBits) {
  constexpr RngKey kKey{.seed = 11, .stream = 1ULL << 41U};
  for (const std::size_t n : {1UL, 3UL, 1024UL, 100001UL}) {
    for (const std::uint64_t first : {0ULL, 5ULL, (1ULL << 33U) + 2}) {
      std::vector<float> x(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = 0.125F * static_cast<float>(i % 11);
      const DeviceBuffer<float> device(x);
      add_noise(test::cuda_exec(), device.span(), first, 0.7, kKey);
      add_noise({}, x, first, 0.7, kKey);
      EXPECT_TRUE(test::same_bits(device.download(), x)) << n << " from " << first;
    }
  }
}

}  // namespace
}  // namespace qat::kernels
