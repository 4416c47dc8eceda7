// The CUDA half of integer_pairs.h against the CPU's.
#include "kernels/grad/integer_pairs.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

TEST(IntegerPairsCuda, EqualsTheCpu) {
  for (const std::size_t words : {std::size_t{1}, std::size_t{255}, std::size_t{100'003}}) {
    std::vector<std::int32_t> pairs(words);
    for (std::size_t i = 0; i < words; ++i)
      pairs[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(i) * 2654435761U);
    const DeviceBuffer<std::int32_t> data(pairs);
    std::vector<std::int32_t> want = pairs;
    pack_pairs(Exec{}, want);
    pack_pairs(cuda_exec(), data.span());
    EXPECT_EQ(data.download(), want) << words;
    unpack_pairs(cuda_exec(), data.span());
    EXPECT_EQ(data.download(), pairs) << words;
  }
}

}  // namespace
}  // namespace qat::kernels
