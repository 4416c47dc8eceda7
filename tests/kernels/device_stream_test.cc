#include "kernels/common/device_stream.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

TEST(DeviceStream, OnACpuIsNoStreamAndEventsHaveHappened) {
  const DeviceStream stream(Device::kCpu, DeviceStream::Priority::kHigh);
  EXPECT_EQ(stream.ref().handle, nullptr);
  DeviceEvent event(Device::kCpu);
  event.record(stream.ref());
  event.hold(stream.ref());
  event.synchronize();
}

TEST(DeviceStream, NeedsAGpuForAGpu) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is one";
  EXPECT_THROW(DeviceStream{Device::kCuda}, Error);
  EXPECT_THROW(DeviceEvent{Device::kCuda}, Error);
}

}  // namespace
}  // namespace qat
