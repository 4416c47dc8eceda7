#include "src/quant/torch_device.h"

#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

// The folder of the LibTorch that this process runs with.
std::filesystem::path libtorch_folder() {
  Dl_info info{};
  const auto symbol = reinterpret_cast<const void*>(&at::globalContext);  // NOLINT: dladdr takes any address
  QAT_CHECK(dladdr(symbol, &info) != 0 && info.dli_fname != nullptr, "libtorch_cpu is a shared library");
  return std::filesystem::path(info.dli_fname).parent_path();
}

// LibTorch's own switch for kernels whose sums depend on timing. cuBLAS must be told before it starts; memory that is
// not written is nobody's business and need not be filled.
void use_repeatable_kernels() {
  (void)setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*replace=*/0);  // NOLINT(concurrency-mt-unsafe): no threads yet
  at::Context& context = at::globalContext();
  context.setSDPUseCuDNN(false);
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(false);
}

// Segments that grow instead of new ones beside them: 0.7 GiB less of 20 for GPT-2 124M at 64 x 1024 tokens, as fast.
// LibTorch reads this when its allocator starts; what the user has set stands.
void use_growing_segments() {  // NOLINTBEGIN(concurrency-mt-unsafe): no threads yet
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") != nullptr) return;
  (void)setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True", /*replace=*/0);
}  // NOLINTEND(concurrency-mt-unsafe)

}  // namespace

void use_cuda(int index) {
  static bool loaded = false;  // the process has one LibTorch
  if (!loaded) {
    use_growing_segments();
    const std::filesystem::path library = libtorch_folder() / "libtorch_cuda.so";
    if (!std::filesystem::exists(library))
      throw Error(ErrorKind::kConfig,
                  "compute.device is \"cuda\", but this LibTorch has no CUDA half (" + library.string() +
                      " is not there): run `launch/setup.sh --cuda`, or use compute.device \"cpu\"");
    if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
      throw Error(ErrorKind::kConfig, std::string("LibTorch's CUDA half does not load: ") + dlerror() +
                                          "; run `launch/setup.sh --cuda`, or use compute.device \"cpu\"");
    loaded = true;
  }
  set_cuda_device(index);
  c10::impl::getDeviceGuardImpl(at::kCUDA)->setDevice(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index)));
}

ComputeMode make_compute_mode(bool cuda, FloatChoice dtype, AttentionChoice attention, int index) {
  ComputeMode mode;
  if (cuda) {
    use_cuda(index);
    mode.device = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    mode.dtype = dtype == FloatChoice::kAuto || dtype == FloatChoice::kBf16 ? at::kBFloat16 : at::kFloat;
    mode.tf32 = dtype == FloatChoice::kTf32;
  } else if (dtype != FloatChoice::kAuto && dtype != FloatChoice::kFp32) {
    throw Error(ErrorKind::kConfig, std::string("compute.dtype is \"") + enum_name(dtype) +
                                        "\", but CPUs compute in fp32 here: use \"auto\" or \"fp32\", or a GPU");
  }
  mode.repeatable_attention = mode.is_cuda() && attention == AttentionChoice::kRepeatable;
  if (mode.repeatable_attention) use_repeatable_kernels();
  at::globalContext().setAllowTF32CuBLAS(mode.tf32);
  return mode;
}

}  // namespace qat
