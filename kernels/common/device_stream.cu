#include "kernels/common/cuda_check.h"
#include "kernels/common/device_stream.h"

namespace qat {
namespace {

cudaStream_t handle(StreamRef stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace

DeviceStream::DeviceStream(Device device, Priority priority) {
  if (device == Device::kCpu) return;
  int lowest = 0, highest = 0;  // smaller numbers go first
  QAT_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaStream_t made = nullptr;
  QAT_CUDA_CHECK(
      cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, priority == Priority::kHigh ? highest : lowest));
  handle_ = made;
}

DeviceStream::~DeviceStream() {
  if (handle_ != nullptr) (void)cudaStreamDestroy(handle(ref()));  // fails when the driver is gone already
}

DeviceEvent::DeviceEvent(Device device) {
  if (device == Device::kCpu) return;
  cudaEvent_t made = nullptr;
  QAT_CUDA_CHECK(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
  handle_ = made;
}

DeviceEvent::~DeviceEvent() {
  if (handle_ != nullptr) (void)cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}

void DeviceEvent::record(StreamRef stream) {
  if (handle_ != nullptr) QAT_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(handle_), handle(stream)));
}

void DeviceEvent::hold(StreamRef stream) const {
  if (handle_ != nullptr) QAT_CUDA_CHECK(cudaStreamWaitEvent(handle(stream), static_cast<cudaEvent_t>(handle_), 0));
}

void DeviceEvent::synchronize() const {
  if (handle_ != nullptr) QAT_CUDA_CHECK(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)));
}

}  // namespace qat
