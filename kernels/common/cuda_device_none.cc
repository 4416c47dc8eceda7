// cuda_device.h, device_stream.h and device_graph.h in a program built without CUDA.
#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_versions.h"
#include "kernels/common/device_graph.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/error.h"

#ifndef QAT_HAS_CUDA
#error "the build says whether *.cu files are compiled: QAT_HAS_CUDA is 0 or 1 for every target under kernels/"
#endif

#if !QAT_HAS_CUDA
namespace qat {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorKind::kConfig, "this program is built without CUDA: use the device \"cpu\"");
}

}  // namespace

CudaVersions cuda_versions() noexcept { return {}; }
int cuda_device_count() noexcept { return 0; }
CudaDeviceInfo cuda_device_info(int /*device*/) { refuse(); }
void set_cuda_device(int /*device*/) { refuse(); }
std::int64_t cuda_free_bytes() { refuse(); }
void* cuda_allocate(std::size_t /*bytes*/) { refuse(); }
void cuda_free(void* /*data*/) noexcept {}
void cuda_zero(void* /*data*/, std::size_t /*bytes*/, StreamRef /*stream*/) { refuse(); }
void cuda_copy(void* /*to*/, const void* /*from*/, std::size_t /*bytes*/, StreamRef /*stream*/) { refuse(); }
void cuda_copy_to_host(void* /*to*/, const void* /*from*/, std::size_t /*bytes*/, StreamRef /*stream*/) { refuse(); }
void cuda_copy_to_device(void* /*to*/, const void* /*from*/, std::size_t /*bytes*/, StreamRef /*stream*/) { refuse(); }
void cuda_synchronize(StreamRef /*stream*/) { refuse(); }

DeviceStream::DeviceStream(Device device, Priority /*priority*/) {
  if (device != Device::kCpu) refuse();
}
DeviceStream::~DeviceStream() = default;
DeviceEvent::DeviceEvent(Device device) {
  if (device != Device::kCpu) refuse();
}
DeviceEvent::~DeviceEvent() = default;
void DeviceEvent::record(StreamRef /*stream*/) {}
void DeviceEvent::hold(StreamRef /*stream*/) const {}
void DeviceEvent::synchronize() const {}

DeviceGraph::~DeviceGraph() = default;
void DeviceGraph::record(const kernels::Exec& /*exec*/, const std::function<void()>& /*body*/) { refuse(); }
void DeviceGraph::launch(const kernels::Exec& /*exec*/) const { refuse(); }

}  // namespace qat
#endif
