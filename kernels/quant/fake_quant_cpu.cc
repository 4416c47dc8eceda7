#include "kernels/quant/fake_quant_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/common/uniform_fill.h"
#include "kernels/quant/row_coder.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 16384;
constexpr std::int64_t kLogGrainElems = 1024;  // a logarithm and a power an element: worth splitting earlier
constexpr std::int64_t kTileCols = 256;        // the draws of one piece of a row stay in the first-level cache

std::int64_t grain_rows(std::int64_t elems, std::int64_t cols) {
  return std::max<std::int64_t>(1, elems / std::max<std::int64_t>(1, cols));
}

// The parameter of a group; a single one is the tensor's, or that of the only group.
float param_of(std::span<const float> params, std::int64_t group) {
  return params[params.size() == 1 ? 0 : static_cast<std::size_t>(group)];
}

// What snap_row needs, one entry per group.
struct GridTables {
  explicit GridTables(const UniformGrid& grid) {
    for (std::size_t g = 0; g < grid.scales.size(); ++g) {
      const float zero = grid.zero_points.empty() ? 0.0F : grid.zero_points[g];
      inverse.push_back(1.0F / grid.scales[g]);
      lo.push_back(grid.level_lo - zero);
      hi.push_back(grid.level_hi - zero);
    }
  }
  std::vector<float> inverse, lo, hi;
};

struct LogLevels {
  float log_min;
  float log_range;
  float span;  // of t: log_range, kept away from zero
  float n;     // q_max
  bool packed;
};

float snap_log(float x, const LogLevels& levels) {
  const float magnitude = std::fabs(x);
  if (levels.packed ? magnitude <= kLogEps : magnitude < kLogEps) return 0.0F;
  // Comparisons that a NaN fails, so that it stays.
  float t = (std::log2(magnitude) - levels.log_min) / levels.span;
  t = t < 0.0F ? 0.0F : t;
  t = t > 1.0F ? 1.0F : t;
  float u = 0.0F;
  if (!levels.packed) {
    u = std::nearbyint((t - 0.5F) * (2.0F * levels.n)) / (2.0F * levels.n) + 0.5F;
  } else if (levels.n > 1.0F) {
    u = std::nearbyint(t * (levels.n - 1.0F)) / (levels.n - 1.0F);
  } else {
    u = std::isnan(t) ? t : 0.0F;  // one magnitude: there is nothing to choose
  }
  return std::copysign(std::exp2(u * levels.log_range + levels.log_min), x);
}

}  // namespace

void fake_quant_uniform_cpu(const Exec& exec, Matrix<const float> x, Axis axis, const UniformGrid& grid,
                            Matrix<float> y, CpuIsa isa) {
  const GridTables tables(grid);
  const bool per_column = axis == Axis::kCol;
  exec.for_ranges(x.rows, grain_rows(kGrainElems, x.cols), [&](std::int64_t begin, std::int64_t end) {
    std::array<float, kTileCols> uniform;
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < x.cols; c += kTileCols) {
        const std::int64_t n = std::min(kTileCols, x.cols - c);
        if (grid.stochastic)
          fill_rounding_uniform(grid.key, static_cast<std::uint64_t>(r * x.cols + c),
                                std::span(uniform).first(static_cast<std::size_t>(n)), isa);
        const std::int64_t g = per_column ? c : axis == Axis::kRow ? r : 0;
        snap_row(x.row(r) + c, n,
                 {grid.scales.data() + g, tables.inverse.data() + g, tables.lo.data() + g, tables.hi.data() + g,
                  per_column, grid.stochastic ? uniform.data() : nullptr},
                 y.row(r) + c, isa);
      }
    }
  });
}

void fake_quant_log_cpu(const Exec& exec, Matrix<const float> x, Axis axis, const LogGrid& grid, Matrix<float> y) {
  constexpr float kMinSpan = 1e-5F;
  const float n = static_cast<float>(grid.width.q_max());
  const bool packed = grid.codebook == LogCodebook::kPacked;
  exec.for_ranges(x.rows, grain_rows(kLogGrainElems, x.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < x.cols; ++c) {
        const std::int64_t g = axis == Axis::kCol ? c : r;
        const float log_range = param_of(grid.log_ranges, g);
        y.at(r, c) =
            snap_log(x.at(r, c), {param_of(grid.log_mins, g), log_range, std::max(log_range, kMinSpan), n, packed});
      }
    }
  });
}

}  // namespace qat::kernels
