#include "kernels/common/device_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "kernels/attention/keep_tokens.h"
#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat {
namespace {

using test::DeviceBuffer;
using ::testing::HasSubstr;

// A token of one value, whose scale is that value over 127.
class Work {
 public:
  void set(float value) const { x_.upload(std::vector<float>{value, 2 * value}.data(), 8); }
  void enqueue() const {
    kernels::keep_tokens(test::test_stream(), {x_.data(), 1, 2, 2, DType::kFloat32}, BitWidth(8), row_.span(),
                         codes_.matrix(1, 2), scales_.span());
  }
  std::vector<float> scales() const { return scales_.download(); }

 private:
  DeviceBuffer<float> x_{2};
  DeviceBuffer<std::int64_t> row_{std::vector<std::int64_t>{0}};
  DeviceBuffer<std::int8_t> codes_{2};
  DeviceBuffer<float> scales_{2};
};

TEST(DeviceGraph, DoesWhatWasRecordedAtEveryLaunch) {
  const Work work;
  work.set(1.0F);
  work.enqueue();
  EXPECT_FLOAT_EQ(work.scales()[1], 2.0F / 127);
  work.set(127.0F);
  DeviceGraph graph;
  EXPECT_FALSE(graph.is_recorded());
  graph.record(test::test_stream(), [&] { work.enqueue(); });
  EXPECT_FLOAT_EQ(work.scales()[1], 2.0F / 127) << "nothing is done yet";
  graph.launch(test::test_stream());
  EXPECT_EQ(work.scales(), (std::vector<float>{1.0F, 2.0F}));
  work.set(254.0F);
  graph.launch(test::test_stream());
  EXPECT_EQ(work.scales(), (std::vector<float>{2.0F, 4.0F}));
}

TEST(DeviceGraph, AFailureInItsBodyLeavesTheStreamUsable) {
  const Work work;
  DeviceGraph graph;
  EXPECT_THROW(graph.record(test::test_stream(),
                            [&] {
                              work.enqueue();
                              throw std::runtime_error("no");
                            }),
               std::runtime_error);
  EXPECT_FALSE(graph.is_recorded());
  work.set(127.0F);
  work.enqueue();
  EXPECT_EQ(work.scales()[0], 1.0F);
}

TEST(DeviceGraph, IsOfAStreamOfItsOwn) {
  DeviceGraph graph;
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { graph.record({.device = Device::kCuda}, [] {}); }),
              HasSubstr("a stream of its own"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { graph.launch(test::test_stream()); }),
              HasSubstr("recorded before"));
}

}  // namespace
}  // namespace qat
