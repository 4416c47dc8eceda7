#include "kernels/optim/add_noise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/normal_draw.h"
#include "kernels/optim/add_noise_cuda.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrain = 4096;

void add_noise_cpu(const Exec& exec, std::span<float> x, std::uint64_t first, double deviation, RngKey key) {
  exec.for_ranges(static_cast<std::int64_t>(x.size()), kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<float, kNormalDraws> draws{};
    for (std::int64_t i = begin; i < end;) {
      const std::uint64_t draw = first + static_cast<std::uint64_t>(i);
      normal_draws(philox(key, draw / kNormalDraws), deviation, draws.data());
      for (std::uint64_t d = draw % kNormalDraws; d < kNormalDraws && i < end; ++d, ++i)
        x[static_cast<std::size_t>(i)] += draws[d];
    }
  });
}

}  // namespace

void add_noise(const Exec& exec, std::span<float> x, std::uint64_t first, double deviation, RngKey key) {
  QAT_CHECK(std::isfinite(deviation) && deviation >= 0.0, "noise of deviation " + std::to_string(deviation));
  if (x.empty()) return;
  dispatch(
      exec, "add_noise", [&] { add_noise_cpu(exec, x, first, deviation, key); },
      [&] { add_noise_cuda(exec, x, first, deviation, key); });
}

}  // namespace qat::kernels
