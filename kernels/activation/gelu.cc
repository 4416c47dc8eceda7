#include "kernels/activation/gelu.h"

#include <limits>
#include <string>

#include "kernels/activation/gelu_cpu.h"
#include "kernels/activation/gelu_cuda.h"
#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"

namespace qat::kernels {
namespace {

void check_like(const ConstFloatMatrix& m, const ConstFloatMatrix& x, const char* name) {
  QAT_CHECK(m.rows == x.rows && m.cols == x.cols && m.dtype == x.dtype,
            std::string(name) + " is " + shape_text(m.rows, m.cols) + " for x of " + shape_text(x.rows, x.cols) +
                ", or of another dtype");
  QAT_CHECK(m.is_dense() || m.rows <= 1, std::string(name) + " has gaps between its rows");
}

}  // namespace

void gelu(const Exec& exec, ConstFloatMatrix x, FloatMatrix y) {
  check_like(x, x, "x");
  check_like(y, x, "y");
  dispatch(
      exec, "gelu", [&] { gelu_cpu(exec, x, y); }, [&] { gelu_cuda(exec, x, y); });
}

void gelu_encode(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales, FloatMatrix values) {
  const auto& [codes, transposed] = out;
  check_like(x, x, "x");
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor / static_cast<float>(options.width.q_max()) >= std::numeric_limits<float>::min(),
            "a scale must be a positive normal number, so the floor of its range must be large enough");
  QAT_CHECK(options.rounding == Rounding::kNearestEven, "activations are rounded to nearest");
  QAT_CHECK(x.size() == 0 || !codes.empty() || !transposed.empty(), "gelu_encode has nowhere to write codes");
  QAT_CHECK(codes.empty() || (codes.rows == x.rows && codes.cols == x.cols),
            "codes are " + shape_text(codes) + " for x of " + shape_text(x.rows, x.cols));
  QAT_CHECK(transposed.empty() || (transposed.rows == x.cols && transposed.cols == x.rows),
            "transposed codes are " + shape_text(transposed) + " for x of " + shape_text(x.rows, x.cols));
  QAT_CHECK(length(scales) == x.rows,
            std::to_string(scales.size()) + " scales for " + std::to_string(x.rows) + " rows");
  if (!values.empty()) check_like(values, x, "values");
  dispatch(
      exec, "gelu_encode", [&] { gelu_encode_cpu(exec, x, options, out, scales, values); },
      [&] { gelu_encode_cuda(exec, x, options, out, scales, values); });
}

void gelu_backward(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix dx) {
  check_like(x, x, "x");
  check_like(dy, x, "dy");
  check_like(dx, x, "dx");
  dispatch(
      exec, "gelu_backward", [&] { gelu_backward_cpu(exec, dy, x, dx); }, [&] { gelu_backward_cuda(exec, dy, x, dx); });
}

}  // namespace qat::kernels
