#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace qat {

// Runs body(i) for i in [0, count) on up to `threads` threads, the calling one among them; thread t takes t, t +
// threads,
// ... All have ended when it returns; what the lowest failing i threw is thrown again.
template <typename Body>
void run_parallel(std::int64_t count, int threads, const Body& body) {
  const std::int64_t workers = std::min<std::int64_t>(std::max(threads, 1), count);
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(count));
  const auto work = [&](std::int64_t worker) {
    for (std::int64_t i = worker; i < count; i += workers) {
      try {
        body(i);
      } catch (...) {
        failures[static_cast<std::size_t>(i)] = std::current_exception();
        return;
      }
    }
  };
  std::vector<std::thread> others;
  for (std::int64_t worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
  if (workers > 0) work(0);
  for (std::thread& thread : others) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace qat
