#include "src/quant/torch_view.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "kernels/common/error.h"

namespace qat {
namespace {

class TorchParallelFor final : public kernels::ParallelFor {
 public:
  void run(std::int64_t count, std::int64_t grain, const Body& body) const override {
    at::parallel_for(0, count, grain, [&](std::int64_t begin, std::int64_t end) { body(begin, end); });
  }
};

template <typename T>
Matrix<T> view_as(const at::Tensor& t) {
  QAT_CHECK(t.is_contiguous(), "a kernel needs a contiguous tensor");
  QAT_CHECK(t.dim() >= 1, "a kernel needs at least one dimension");
  const std::int64_t cols = t.size(-1);
  const std::int64_t rows = cols == 0 ? 0 : t.numel() / cols;
  return {const_cast<T*>(t.const_data_ptr<std::remove_const_t<T>>()), rows, cols};
}

}  // namespace

kernels::Exec exec_for(const at::Tensor& t) {
  static const TorchParallelFor kParallel;  // stateless
  // LibTorch's CUDA half is loaded at run time (torch_device.h): asked for through the interface that it registers.
  if (t.device().is_cuda()) {
    const c10::Stream stream = c10::impl::getDeviceGuardImpl(at::kCUDA)->getStream(t.device());
    return {.device = Device::kCuda, .stream = {stream.native_handle()}};
  }
  QAT_CHECK(t.device().is_cpu(), "tensors are on a CPU or on a CUDA device");
  return {.device = Device::kCpu, .stream = {}, .parallel = &kParallel};
}

Matrix<const float> const_matrix(const at::Tensor& t) { return view_as<const float>(t); }
Matrix<float> matrix(const at::Tensor& t) { return view_as<float>(t); }
FloatMatrix float_matrix(const at::Tensor& t) {
  if (!t.defined()) return {};
  QAT_CHECK(t.dim() >= 1 && (t.size(-1) <= 1 || t.stride(-1) == 1), "a kernel needs rows without gaps inside");
  const DType dtype = t.scalar_type() == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  QAT_CHECK(dtype == DType::kBFloat16 || t.scalar_type() == at::kFloat, "activations are fp32 or bf16");
  const std::int64_t cols = t.size(-1), rows = cols == 0 ? 0 : t.numel() / cols;
  std::int64_t stride = cols;
  for (std::int64_t i = t.dim() - 2, step = 0; i >= 0; --i) {
    if (t.size(i) == 1) continue;
    if (step == 0) stride = t.stride(i);
    QAT_CHECK(step == 0 || t.stride(i) == step, "a kernel needs rows at one distance");
    step = t.stride(i) * t.size(i);
  }
  return {t.data_ptr(), rows, cols, stride, dtype};
}
ConstFloatMatrix const_float_matrix(const at::Tensor& t) { return float_matrix(t); }

Matrix<const std::int8_t> const_codes(const at::Tensor& t) { return view_as<const std::int8_t>(t); }
Matrix<std::int8_t> codes(const at::Tensor& t) { return t.defined() ? view_as<std::int8_t>(t) : Matrix<std::int8_t>{}; }

std::span<const float> const_span(const at::Tensor& t) {
  if (!t.defined()) return {};
  QAT_CHECK(t.is_contiguous(), "a kernel needs a contiguous tensor");
  return {t.const_data_ptr<float>(), static_cast<std::size_t>(t.numel())};
}

std::span<float> span_of(const at::Tensor& t) {
  const auto values = const_span(t);
  return {const_cast<float*>(values.data()), values.size()};
}

}  // namespace qat
