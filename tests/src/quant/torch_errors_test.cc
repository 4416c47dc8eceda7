#include "src/quant/torch_errors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <new>
#include <system_error>

#include "kernels/common/error.h"
#include "src/base/parallel.h"

namespace qat {
namespace {

constexpr std::int64_t kTooMuch = std::int64_t{1} << 50;  // bytes: more than the address space of a process

struct Judgement {
  bool out_of_memory = false;
  std::optional<std::int64_t> asked;
  std::string words;
};

Judgement judge(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return {is_out_of_memory(error), bytes_asked(error), words_of(error)};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

void allocate_too_much() { at::empty({kTooMuch}, at::kByte); }

TEST(TorchErrors, LibTorchsAllocatorOnCpusIsOutOfMemoryAndSaysHowMuchItWasAskedFor) {
  const Judgement found = judge(allocate_too_much);
  EXPECT_TRUE(found.out_of_memory);
  EXPECT_EQ(found.asked, kTooMuch);
  EXPECT_EQ(found.words.find("Exception raised from"), std::string::npos) << "no stack of C++ frames: " << found.words;
}

TEST(TorchErrors, OperatorNewIsOutOfMemory) {
  const Judgement found = judge([] { throw std::bad_alloc(); });
  EXPECT_TRUE(found.out_of_memory);
  EXPECT_EQ(found.asked, std::nullopt);
}

class FailingBackward : public torch::autograd::Function<FailingBackward> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x * 2; }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext*, torch::autograd::tensor_list) {
    allocate_too_much();
    return {at::Tensor()};
  }
};

TEST(TorchErrors, AnErrorKeepsItsKindThroughAutogradAndThreads) {
  const auto pass = [] {
    const at::Tensor x = at::ones({3}).requires_grad_();
    torch::autograd::grad({FailingBackward::apply(x).sum()}, {x});
  };
  const Judgement backward = judge(pass);
  EXPECT_TRUE(backward.out_of_memory);
  EXPECT_EQ(backward.asked, kTooMuch);
  const Judgement threads = judge([&] { run_parallel(4, 4, [&](std::int64_t) { pass(); }); });
  EXPECT_TRUE(threads.out_of_memory);
  EXPECT_EQ(threads.asked, kTooMuch);
}

// What LibTorch 2.11 says of a GPU, in its own types and words.
TEST(TorchErrors, GpuAllocatorsAndLibrariesAreKnownByTypeOrWords) {
  const Judgement gpu = judge([] {
    TORCH_CHECK_WITH(
        OutOfMemoryError, false,
        "CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has a total capacity of 79.10 GiB of which "
        "12.06 MiB is free.");
  });
  EXPECT_TRUE(gpu.out_of_memory);
  EXPECT_EQ(gpu.asked, (std::int64_t{41} << 20) / 2);
  for (const char* words :
       {"CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"})
    EXPECT_TRUE(judge([&] { TORCH_CHECK(false, words); }).out_of_memory) << words;
  const Judgement own = judge([] {
    throw Error(ErrorKind::kOutOfMemory,
                "tried to allocate 4096 bytes of GPU memory, of which 12 of 99 bytes are free");
  });
  EXPECT_TRUE(own.out_of_memory);
  EXPECT_EQ(own.asked, 4096);
}

TEST(TorchErrors, OtherErrorsAreNot) {
  EXPECT_FALSE(judge([] { at::ones({2, 3}).mm(at::ones({2, 3})); }).out_of_memory);
  EXPECT_FALSE(judge([] { throw Error(ErrorKind::kCommunication, "out of memory somewhere else"); }).out_of_memory);
  EXPECT_FALSE(judge([] { throw std::runtime_error("CUDA out of memory"); }).out_of_memory);
  EXPECT_FALSE(
      judge([] { throw std::system_error(std::make_error_code(std::errc::no_space_on_device)); }).out_of_memory);
  EXPECT_TRUE(judge([] { throw std::system_error(std::make_error_code(std::errc::not_enough_memory)); }).out_of_memory);
}

}  // namespace
}  // namespace qat
