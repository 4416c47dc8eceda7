// The CUDA half of integer_words.h against the CPU's.
#include "kernels/grad/integer_words.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

TEST(IntegerWordsCuda, EqualsTheCpu) {
  for (const int bits : {8, 16}) {
    for (const std::size_t words : {std::size_t{1}, std::size_t{255}, std::size_t{100'003}}) {
      std::vector<std::int32_t> numbers(words);
      for (std::size_t i = 0; i < words; ++i)
        numbers[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(i) * 2654435761U);
      const DeviceBuffer<std::int32_t> data(numbers);
      std::vector<std::int32_t> want = numbers;
      pack_words(Exec{}, want, bits);
      pack_words(cuda_exec(), data.span(), bits);
      EXPECT_EQ(data.download(), want) << words << " words of " << bits << " bits";
      unpack_words(Exec{}, want, bits);
      unpack_words(cuda_exec(), data.span(), bits);
      EXPECT_EQ(data.download(), want) << words << " words of " << bits << " bits";
    }
  }
}

}  // namespace
}  // namespace qat::kernels
