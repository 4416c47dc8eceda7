// The CUDA half of tree_sum.h against the CPU's, bit for bit.
#include "kernels/grad/tree_sum.h"

#include <gtest/gtest.h>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

constexpr std::int64_t kPartCounts[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,   12,  15, 16,
                                        17, 31, 32, 33, 48, 63, 64, 65, 100, 130, 200};

TEST(TreeSumCuda, EqualsTheCpuForAnyNumberOfParts) {
  for (const std::int64_t parts : kPartCounts) {
    for (const std::int64_t n : {1, 3, 4, 1000, 1001, 4099}) {
      const std::vector<float> x = test::random_grid(parts, n, static_cast<unsigned>(parts * 7 + n)).values;
      std::vector<float> want(static_cast<std::size_t>(n));
      tree_sum(Exec{}, x, parts, want);
      const DeviceBuffer<float> in(x), out(n);
      tree_sum(cuda_exec(), in.span(), parts, out.span());
      EXPECT_TRUE(test::same_bits(out.download(), want)) << parts << " parts of " << n;
      EXPECT_TRUE(test::same_bits(in.download(), x)) << "the parts changed: " << parts << " parts of " << n;
    }
  }
}

TEST(TreeSumCuda, MayReplaceTheFirstPart) {
  for (const std::int64_t parts : {1, 2, 5, 8, 64, 70}) {
    for (const std::int64_t n : {5, 1024}) {
      const std::vector<float> x = test::random_grid(parts, n, static_cast<unsigned>(parts + n)).values;
      std::vector<float> want = x;
      tree_sum(Exec{}, x, parts, std::span(want).first(static_cast<std::size_t>(n)));
      const DeviceBuffer<float> data(x);
      tree_sum(cuda_exec(), data.span(), parts, data.span().first(static_cast<std::size_t>(n)));
      EXPECT_TRUE(test::same_bits(data.download(), want)) << parts << " parts of " << n;
    }
  }
}

TEST(TreeSumCuda, TakesUnalignedMemory) {
  constexpr std::int64_t kElems = 2048;
  const std::vector<float> x = test::random_grid(1, 4 * kElems + 3, 4).values;
  for (const std::size_t shift : {1UL, 2UL, 3UL}) {
    const std::span<const float> host = std::span(x).subspan(shift, 4 * kElems);
    std::vector<float> want(kElems);
    tree_sum(Exec{}, host, 4, want);
    const DeviceBuffer<float> in(x), out(kElems);
    tree_sum(cuda_exec(), in.span().subspan(shift, 4 * kElems), 4, out.span());
    EXPECT_TRUE(test::same_bits(out.download(), want)) << "shift " << shift;
  }
}

TEST(TreeSumCuda, CoversMoreElementsThanOneWaveOfBlocks) {
  constexpr std::int64_t kElems = 3'000'004;
  const std::vector<float> x = test::random_grid(2, kElems, 5).values;
  std::vector<float> want(kElems);
  tree_sum(Exec{}, x, 2, want);
  const DeviceBuffer<float> in(x), out(kElems);
  tree_sum(cuda_exec(), in.span(), 2, out.span());
  EXPECT_TRUE(test::same_bits(out.download(), want));
}

TEST(AddFlatCuda, EqualsTheCpu) {
  for (const std::int64_t n : {1, 3, 4, 7, 1024, 100003}) {
    for (const std::size_t shift : {0UL, 1UL}) {
      const std::vector<float> a = test::random_grid(1, n, 1).values;
      const std::vector<float> b = test::random_grid(1, n + 1, 2).values;
      std::vector<float> want = a;
      const auto count = static_cast<std::size_t>(n);
      add_flat(Exec{}, want, std::span(b).subspan(shift, count));
      const DeviceBuffer<float> to(a), from(b);
      add_flat(cuda_exec(), to.span(), from.span().subspan(shift, count));
      EXPECT_TRUE(test::same_bits(to.download(), want)) << n << " elements, b shifted by " << shift;
    }
  }
}

}  // namespace
}  // namespace qat::kernels
