// Streams beside the default one, and events between them.
#include "kernels/common/device_stream.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_device.h"
#include "tests/support/device_buffer.h"

namespace qat {
namespace {

using std::chrono::milliseconds;
using test::DeviceBuffer;
using test::is_busy;
using test::keep_busy;

constexpr std::int64_t kElems = 1 << 20;
constexpr std::size_t kBytes = kElems * sizeof(std::int32_t);
const std::vector<std::int32_t> kPoison(kElems, -1);
const std::vector<std::int32_t> kZeros(kElems);

std::vector<std::int32_t> downloaded(const DeviceBuffer<std::int32_t>& buffer, StreamRef stream) {
  std::vector<std::int32_t> values(kElems);
  cuda_copy_to_host(values.data(), buffer.data(), kBytes, stream);
  return values;
}

TEST(DeviceStreamCuda, DoesNotWaitForTheDefaultStream) {
  for (const auto priority : {DeviceStream::Priority::kNormal, DeviceStream::Priority::kHigh}) {
    const DeviceStream stream(Device::kCuda, priority);
    const DeviceBuffer<std::int32_t> buffer(kPoison), copy(kPoison);
    keep_busy({}, milliseconds(500));
    cuda_zero(buffer.data(), kBytes, stream.ref());
    cuda_copy(copy.data(), buffer.data(), kBytes, stream.ref());
    const std::vector<std::int32_t> values = downloaded(copy, stream.ref());
    cuda_copy_to_device(copy.data(), kPoison.data(), kBytes, stream.ref());
    const std::vector<std::int32_t> poison = downloaded(copy, stream.ref());
    ASSERT_TRUE(is_busy({})) << "the default stream was waited for, or this machine is too slow for the test";
    EXPECT_EQ(values, kZeros);
    EXPECT_EQ(poison, kPoison);
    cuda_synchronize();
  }
}

TEST(DeviceEventCuda, HoldsAStreamUntilTheWorkBeforeItIsDone) {
  const DeviceStream first(Device::kCuda), second(Device::kCuda);
  DeviceEvent event(Device::kCuda);
  for (const bool held : {false, true}) {
    const DeviceBuffer<std::int32_t> buffer(kPoison);
    keep_busy(first.ref(), milliseconds(200));
    cuda_zero(buffer.data(), kBytes, first.ref());
    event.record(first.ref());
    if (held) event.hold(second.ref());
    EXPECT_EQ(downloaded(buffer, second.ref()), held ? kZeros : kPoison);
    cuda_synchronize(first.ref());
  }
}

TEST(DeviceEventCuda, MayBeRecordedAnewAndWaitedForByTheHost) {
  const DeviceStream stream(Device::kCuda);
  DeviceEvent event(Device::kCuda);
  event.synchronize();  // never recorded: there is nothing to wait for
  for (int turn = 0; turn < 2; ++turn) {
    const auto begin = std::chrono::steady_clock::now();
    keep_busy(stream.ref(), milliseconds(50));
    event.record(stream.ref());
    event.synchronize();
    EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(50));
  }
}

TEST(DeviceStreamCuda, IsHandedOnWithoutBeingLost) {
  DeviceStream stream(Device::kCuda);
  void* const handle = stream.ref().handle;
  ASSERT_NE(handle, nullptr);
  DeviceStream taken = std::move(stream);
  EXPECT_EQ(taken.ref().handle, handle);
  DeviceStream other(Device::kCuda);
  other = std::move(taken);
  EXPECT_EQ(other.ref().handle, handle);
  cuda_synchronize(other.ref());
}

}  // namespace
}  // namespace qat
