#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/common/error.h"

namespace qat {

// Runs body(i) for i in [0, count) on up to `threads` threads, the calling one among them; thread t takes t, t +
// threads, ... All have ended when it returns; what the lowest failing i threw is thrown again. Throws
// Error(kOutOfMemory) if a thread cannot be started.
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
  // Joins in its destructor, so that a thread that does not start ends in an error and not in std::terminate.
  std::vector<std::jthread> others;
  others.reserve(static_cast<std::size_t>(std::max<std::int64_t>(workers - 1, 0)));
  try {
    for (std::int64_t worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kOutOfMemory,
                "thread " + std::to_string(others.size() + 2) + " of " + std::to_string(workers) +
                    " cannot be started (" + error.code().message() +
                    "): no memory for its stack (ulimit -v, ulimit -s), or too many processes (ulimit -u)");
  }
  if (workers > 0) work(0);
  for (std::jthread& thread : others) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace qat
