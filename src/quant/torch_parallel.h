#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "src/base/parallel.h"

namespace qat {

// run_parallel() for a body that calls LibTorch: each of its threads takes the number of threads that LibTorch was told
// last (one, in this program). OpenMP and MKL keep that number by thread, and give a thread that has not said anything
// all cores: its matrix products would then be cut among them, and their last bits depend on what else runs there.
template <typename Body>
void run_torch_parallel(std::int64_t count, int threads, const Body& body) {
  run_parallel(count, threads, [&](std::int64_t i) {
    at::init_num_threads();
    body(i);
  });
}

}  // namespace qat
