#pragma once

#include <ATen/Parallel.h>

#include <cstdint>
#include <mutex>

#include "src/base/parallel.h"

namespace qat {

// run_parallel() for a body that calls LibTorch, with the same bits from run to run:
//
// Each of its threads takes the number of threads that LibTorch was told last (one, in this program). OpenMP and MKL
// keep that number by thread, and give a thread that has not said anything all cores: its matrix products would then be
// cut among them, and their last bits depend on what else runs there.
//
// The first body(0) of a process, for each type of body, runs before the others start. MKL's vector functions (exp,
// tanh, ...) choose their code for this processor in their first call, without a lock: of threads that make it together
// some get the code for any processor, whose last bits differ (seen in 1 % of starts on an Intel Xeon).
template <typename Body>
void run_torch_parallel(std::int64_t count, int threads, const Body& body) {
  const auto work = [&](std::int64_t i) {
    at::init_num_threads();
    body(i);
  };
  static std::once_flag once;
  std::int64_t done = 0;
  if (count > 0) std::call_once(once, [&] { work(done++); });
  run_parallel(count - done, threads, [&](std::int64_t i) { work(done + i); });
}

}  // namespace qat
