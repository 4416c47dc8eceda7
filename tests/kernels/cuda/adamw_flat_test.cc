// The CUDA half of adamw_flat.h and adamw_segments.h against the CPU's, bit for bit.
#include "kernels/optim/adamw_flat.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/optim/adamw_segments.h"
#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;

struct HostState {
  std::vector<float> p, g, m, v;

  explicit HostState(std::int64_t n, unsigned seed = 1)
      : p(test::random_grid(1, n, seed).values),
        g(test::random_grid(1, n, seed + 1).values),
        m(test::random_grid(1, n, seed + 2).values),
        v(test::random_grid(1, n, seed + 3).values) {
    for (float& value : v) value = std::fabs(value);
    // Tiny and zero second moments: the root and the quotient far from 1, subnormal products.
    for (std::size_t i = 0; i < v.size(); i += 5) v[i] = 0.0F, g[i] *= 1e-18F, m[i] *= 1e-30F;
  }
};

struct DeviceState {
  DeviceBuffer<float> p, g, m, v;

  explicit DeviceState(const HostState& host) : p(host.p), g(host.g), m(host.m), v(host.v) {}
  ::testing::AssertionResult equals(const HostState& host) const {
    if (auto same = test::same_bits(p.download(), host.p); !same) return same << " (p)";
    if (auto same = test::same_bits(m.download(), host.m); !same) return same << " (m)";
    if (auto same = test::same_bits(g.download(), host.g); !same) return same << " (g changed)";
    return test::same_bits(v.download(), host.v) << " (v)";
  }
};

AdamWStep step_of(std::int64_t count) {
  return {.learning_rate = 0.013F, .beta2 = 0.95F, .weight_decay = 0.1F, .gradient_scale = 0.37F, .step = count};
}

TEST(AdamWCuda, EqualsTheCpuOverSteps) {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 31, 1024, 2303, 100003}) {
    HostState host(n);
    const DeviceState device(host);
    for (const std::int64_t count : {1, 2, 1000}) {
      adamw_flat(Exec{}, host.p, host.g, host.m, host.v, step_of(count));
      adamw_flat(cuda_exec(), device.p.span(), device.g.span(), device.m.span(), device.v.span(), step_of(count));
      ASSERT_TRUE(device.equals(host)) << n << " elements, step " << count;
    }
  }
}

TEST(AdamWCuda, TakesUnalignedRangesAndTouchesNothingElse) {
  constexpr std::size_t kElems = 5000;
  for (const std::size_t shift : {0UL, 1UL, 3UL})
    for (const std::size_t other : {0UL, 2UL}) {  // the gradient's alignment differs from the others'
      HostState host(static_cast<std::int64_t>(kElems) + 8);
      const DeviceState device(host);
      const auto part = [&](auto span, std::size_t at) { return span.subspan(at, kElems); };
      adamw_flat(Exec{}, part(std::span(host.p), shift), part(std::span<const float>(host.g), shift + other),
                 part(std::span(host.m), shift), part(std::span(host.v), shift), step_of(3));
      adamw_flat(cuda_exec(), part(device.p.span(), shift),
                 part(std::span<const float>(device.g.span()), shift + other), part(device.m.span(), shift),
                 part(device.v.span(), shift), step_of(3));
      EXPECT_TRUE(device.equals(host)) << "shift " << shift << ", gradient by " << other << " more";
    }
}

void expect_segments_equal(std::int64_t n, const std::vector<AdamWSegment>& segments, const char* what) {
  HostState host(n, 11);
  const DeviceState device(host);
  for (int turn = 0; turn < 2; ++turn) {
    adamw_segments(Exec{}, host.p, host.g, host.m, host.v, segments);
    adamw_segments(cuda_exec(), device.p.span(), device.g.span(), device.m.span(), device.v.span(), segments);
  }
  EXPECT_TRUE(device.equals(host)) << what;
}

TEST(AdamWSegmentsCuda, EqualTheCpuForTensorsOfAllSizes) {
  std::vector<AdamWSegment> segments;
  std::int64_t offset = 0;
  for (const std::int64_t elems : {768, 1, 3, 4096, 4095, 4097, 0, 2, 50000, 8192, 5}) {
    segments.push_back({.offset = offset, .elems = elems, .step = step_of(1 + offset % 9)});
    offset += elems;
  }
  expect_segments_equal(offset, segments, "side by side");
  for (std::size_t i = 0; i < segments.size(); ++i) segments[i].offset += static_cast<std::int64_t>(i);
  expect_segments_equal(offset + 20, segments, "with gaps");
  expect_segments_equal(10, {}, "none");
  expect_segments_equal(10, {{.offset = 7, .elems = 2, .step = step_of(1)}}, "one");
}

TEST(AdamWSegmentsCuda, EqualTheCpuForManySegments) {  // more than two rounds of 32 candidates
  std::vector<AdamWSegment> segments;
  for (std::int64_t i = 0; i < 2500; ++i)
    segments.push_back({.offset = i * 13, .elems = i % 14, .step = step_of(1 + i % 30)});
  expect_segments_equal(2500 * 13 + 1, segments, "2500 segments");
}

TEST(AdamWSegmentsCuda, TakeUnalignedArrays) {
  HostState host(10007);
  const DeviceState device(host);
  const std::vector<AdamWSegment> segments{{.offset = 1, .elems = 5001, .step = step_of(4)},
                                           {.offset = 5002, .elems = 4999, .step = step_of(5)}};
  for (const std::size_t other : {1UL, 2UL}) {
    const auto all = [&](auto span, std::size_t at) { return span.subspan(at, 10003); };
    adamw_segments(Exec{}, all(std::span(host.p), 1), all(std::span<const float>(host.g), other),
                   all(std::span(host.m), 1), all(std::span(host.v), 1), segments);
    adamw_segments(cuda_exec(), all(device.p.span(), 1), all(std::span<const float>(device.g.span()), other),
                   all(device.m.span(), 1), all(device.v.span(), 1), segments);
    EXPECT_TRUE(device.equals(host)) << "gradient shifted by " << other;
  }
}

// Elements whose new values would not be finite, at both ends and inside of quads and chunks.
HostState spoilt_state(std::int64_t n, const std::vector<std::size_t>& where) {
  HostState host(n, 21);
  int kind = 0;
  for (const std::size_t i : where) {
    switch (kind++ % 5) {
      case 0:
        host.g[i] = std::nanf("");
        break;
      case 1:
        host.g[i] = -INFINITY;
        break;
      case 2:
        host.g[i] = 1e25F;  // its square is infinite, the step would be 0
        break;
      case 3:
        host.p[i] = 3.4e38F, host.m[i] = -3e38F, host.v[i] = 0.0F;
        break;
      case 4:
        host.p[i] = std::nanf("");
        break;
    }
  }
  return host;
}

TEST(AdamWCuda, KeepsWhatWouldNotBeFiniteAndRaisesTheFlagAsTheCpuDoes) {
  constexpr std::int64_t kElems = 20003;
  const std::vector<std::size_t> where{0, 1, 2, 3, 5, 4095, 4096, 4100, 8191, 9000, 15000, 20000, 20001, 20002};
  for (const std::size_t shift : {0UL, 1UL}) {  // whole quads, and element by element
    HostState host = spoilt_state(kElems + 1, where);
    const DeviceState device(host);
    const DeviceBuffer<std::int32_t> flag(std::vector<std::int32_t>{0});
    std::int32_t refused = 0;
    const auto part = [&](auto span, std::size_t at) { return span.subspan(at, kElems); };
    adamw_flat(Exec{}, part(std::span(host.p), 0), part(std::span<const float>(host.g), shift),
               part(std::span(host.m), 0), part(std::span(host.v), 0), step_of(2), &refused);
    adamw_flat(cuda_exec(), part(device.p.span(), 0), part(std::span<const float>(device.g.span()), shift),
               part(device.m.span(), 0), part(device.v.span(), 0), step_of(2), flag.span().data());
    EXPECT_EQ(refused, 1);
    EXPECT_EQ(flag.download(), std::vector<std::int32_t>{1});
    EXPECT_TRUE(device.equals(host)) << "gradient shifted by " << shift;
    EXPECT_TRUE(std::isfinite(host.p[1]) && std::isfinite(host.v[2]));
  }
}

TEST(AdamWSegmentsCuda, RaiseTheFlagForOneElementAnywhereAndOnlyThen) {
  constexpr std::int64_t kElems = 12000;
  const std::vector<AdamWSegment> segments{{.offset = 0, .elems = 5000, .step = step_of(4)},
                                           {.offset = 5001, .elems = 6999, .step = step_of(5)}};
  const auto step_both = [&](HostState& host, const char* what) {
    const DeviceState device(host);
    const DeviceBuffer<std::int32_t> flag(std::vector<std::int32_t>{0});
    std::int32_t refused = 0;
    adamw_segments(Exec{}, host.p, host.g, host.m, host.v, segments, &refused);
    adamw_segments(cuda_exec(), device.p.span(), device.g.span(), device.m.span(), device.v.span(), segments,
                   flag.span().data());
    EXPECT_EQ(flag.download()[0], refused) << what;
    EXPECT_TRUE(device.equals(host)) << what;
    return refused;
  };
  HostState healthy(kElems, 21), outside = spoilt_state(kElems, {5000});
  EXPECT_EQ(step_both(healthy, "healthy"), 0);
  EXPECT_EQ(step_both(outside, "in no segment"), 0);
  for (const std::size_t at : {0UL, 4096UL, 4999UL, 5001UL, 5005UL, 9200UL, 11999UL}) {
    HostState host = spoilt_state(kElems, {at});
    EXPECT_EQ(step_both(host, "one"), 1) << at;
  }
}

TEST(AdamWCuda, BetasThatFp32RoundsToOneGiveTheBitsOfTheCpu) {
  HostState host(3001);
  const DeviceState device(host);
  const DeviceBuffer<std::int32_t> flag(std::vector<std::int32_t>{0});
  for (const std::int64_t count : {1, 2, 3}) {
    const AdamWStep step{.learning_rate = 0.01, .beta1 = 0.99999999, .beta2 = 0.99999999, .step = count};
    adamw_flat(Exec{}, host.p, host.g, host.m, host.v, step);
    adamw_flat(cuda_exec(), device.p.span(), device.g.span(), device.m.span(), device.v.span(), step,
               flag.span().data());
    ASSERT_TRUE(device.equals(host)) << "step " << count;
  }
}

TEST(BlockSumSquaresCuda, EqualsTheCpuToTheBit) {
  const std::vector<float> values = test::random_grid(1, 300007, 5).values;
  for (const std::int64_t block : {1, 7, 64, 128, 1000, 1024, 2600, 400000}) {
    for (const std::size_t shift : {0UL, 1UL}) {
      const std::span<const float> x = std::span(values).subspan(shift, 300006);
      const auto blocks = (300006 + block - 1) / block;
      std::vector<double> want(static_cast<std::size_t>(blocks));
      block_sum_squares(Exec{}, x, block, want);
      const DeviceBuffer<float> device(values);
      const DeviceBuffer<double> partial(blocks);
      block_sum_squares(cuda_exec(), device.span().subspan(shift, 300006), block, partial.span());
      EXPECT_EQ(partial.download(), want) << "blocks of " << block << ", shift " << shift;
    }
  }
}

}  // namespace
}  // namespace qat::kernels
