#include "kernels/activation/dropout.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/activation/dropout_cuda.h"
#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/common/uniform_fill.h"

namespace qat::kernels {
namespace {

void dropout_cpu(const Matrix<const float>& x, float p, RngKey key, const Matrix<float>& y) {
  const float scale = 1.0F / (1.0F - p);
  std::array<float, 1024> draws{};
  for (std::int64_t begin = 0; begin < x.size(); begin += static_cast<std::int64_t>(draws.size())) {
    const std::int64_t n = std::min<std::int64_t>(x.size() - begin, static_cast<std::int64_t>(draws.size()));
    fill_uniform(key, static_cast<std::uint64_t>(begin), {draws.data(), static_cast<std::size_t>(n)});
    for (std::int64_t i = 0; i < n; ++i)
      y.data[begin + i] = draws[static_cast<std::size_t>(i)] < p ? 0.0F : x.data[begin + i] * scale;
  }
}

}  // namespace

void dropout(const Exec& exec, ConstFloatMatrix x, float p, RngKey key, FloatMatrix y) {
  QAT_CHECK(p >= 0.0F && p < 1.0F, "dropout keeps something: p is " + std::to_string(p));
  QAT_CHECK(y.rows == x.rows && y.cols == x.cols && y.dtype == x.dtype,
            "y is " + shape_text(y.rows, y.cols) + " for x of " + shape_text(x.rows, x.cols) + ", or of another dtype");
  QAT_CHECK((x.is_dense() && y.is_dense()) || x.rows <= 1, "x or y has gaps between its rows");
  dispatch(
      exec, "dropout", [&] { dropout_cpu(require_fp32(x), p, key, require_fp32(y)); },
      [&] { dropout_cuda(exec, x, p, key, y); });
}

}  // namespace qat::kernels
