// A ParallelFor on fresh std::threads: as many ranges as threads, cut unevenly, all running at the same time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "kernels/common/exec.h"

namespace qat::test {

class ThreadsParallelFor final : public kernels::ParallelFor {
 public:
  explicit ThreadsParallelFor(int threads) : threads_(threads) {}

  void run(std::int64_t count, std::int64_t grain, const Body& body) const override {
    const std::int64_t most = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
    const std::int64_t ranges = std::min<std::int64_t>(threads_, most);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranges));
    std::vector<std::thread> threads;
    for (std::int64_t i = 0; i < ranges; ++i)
      threads.emplace_back([&, i] {
        try {
          body(count * i / ranges, count * (i + 1) / ranges);
        } catch (...) {
          errors[static_cast<std::size_t>(i)] = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
  }

 private:
  int threads_;
};

}  // namespace qat::test
