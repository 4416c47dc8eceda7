// A stream that is busy: what is wrongly put there comes too late for whoever reads the result on another stream.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <memory>
#include <thread>

#include "kernels/common/cuda_check.h"
#include "kernels/common/view.h"

namespace qat::test {

// Returns at once; the stream (null: the default one) does nothing else for so long.
inline void keep_busy(StreamRef stream, std::chrono::milliseconds time) {
  auto sleep = std::make_unique<std::chrono::milliseconds>(time);
  const auto body = [](void* given) {
    const std::unique_ptr<std::chrono::milliseconds> owned(static_cast<std::chrono::milliseconds*>(given));
    std::this_thread::sleep_for(*owned);
  };
  QAT_CUDA_CHECK(cudaLaunchHostFunc(static_cast<cudaStream_t>(stream.handle), body, sleep.get()));
  (void)sleep.release();  // the callback's now
}

inline bool is_busy(StreamRef stream) {
  const cudaError_t state = cudaStreamQuery(static_cast<cudaStream_t>(stream.handle));
  if (state != cudaErrorNotReady) QAT_CUDA_CHECK(state);
  return state == cudaErrorNotReady;
}

}  // namespace qat::test
