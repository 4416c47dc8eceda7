#include "dist/grad/cuda_flat_memory.h"

#include "kernels/common/cuda_device.h"
#include "kernels/grad/tree_sum.h"

namespace qat::dist {
namespace {

class CudaFlatMemory final : public FlatMemory {
 public:
  explicit CudaFlatMemory(StreamRef stream) : stream_(stream) {}

  std::shared_ptr<float> allocate(std::int64_t elems) override {
    const std::size_t bytes = static_cast<std::size_t>(elems) * sizeof(float);
    std::shared_ptr<float> data(static_cast<float*>(cuda_allocate(bytes)), cuda_free);
    cuda_zero(data.get(), bytes, stream_);
    return data;
  }
  void zero(std::span<float> values) override { cuda_zero(values.data(), values.size_bytes(), stream_); }
  void add(std::span<float> a, std::span<const float> b) override {
    kernels::add_flat({.device = Device::kCuda, .stream = stream_}, a, b);
  }
  void copy(std::span<float> a, std::span<const float> b) override {
    cuda_copy(a.data(), b.data(), b.size_bytes(), stream_);
  }
  void wait() override { cuda_synchronize(stream_); }

 private:
  StreamRef stream_;
};

}  // namespace

std::shared_ptr<FlatMemory> cuda_flat_memory(StreamRef stream) { return std::make_shared<CudaFlatMemory>(stream); }

}  // namespace qat::dist
