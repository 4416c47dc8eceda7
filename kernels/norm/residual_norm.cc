#include "kernels/norm/residual_norm.h"

#include <limits>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/norm/residual_norm_cpu.h"
#include "kernels/norm/residual_norm_cuda.h"

namespace qat::kernels {
namespace {

void check_like(const ConstFloatMatrix& m, const ConstFloatMatrix& x, const char* name) {
  QAT_CHECK(m.rows == x.rows && m.cols == x.cols && m.dtype == x.dtype,
            std::string(name) + " is " + shape_text(m.rows, m.cols) + " for rows of " + shape_text(x.rows, x.cols) +
                ", or of another dtype");
  QAT_CHECK(m.is_dense() || m.rows <= 1, std::string(name) + " has gaps between its rows");
}

void check_length(std::span<const float> values, std::int64_t want, const char* name) {
  QAT_CHECK(length(values) == want,
            std::string(name) + " has " + std::to_string(values.size()) + " elements, not " + std::to_string(want));
}

void check_codes(const ConstFloatMatrix& x, const EncodeOptions& options, const ResidualNormOut& out) {
  const auto& [codes, transposed] = out.codes;
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor / static_cast<float>(options.width.q_max()) >= std::numeric_limits<float>::min(),
            "a scale must be a positive normal number, so the floor of its range must be large enough");
  QAT_CHECK(options.rounding == Rounding::kNearestEven, "activations are rounded to nearest");
  QAT_CHECK(codes.empty() || (codes.rows == x.rows && codes.cols == x.cols),
            "codes are " + shape_text(codes) + " for rows of " + shape_text(x.rows, x.cols));
  QAT_CHECK(transposed.empty() || (transposed.rows == x.cols && transposed.cols == x.rows),
            "transposed codes are " + shape_text(transposed) + " for rows of " + shape_text(x.rows, x.cols));
  check_length(out.code_scales, x.rows, "code_scales");
}

}  // namespace

void residual_norm(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
                   const EncodeOptions& options, const ResidualNormOut& out) {
  if (x.size() == 0) return;
  const bool wants_codes = !out.codes.codes.empty() || !out.codes.codes_transposed.empty();
  check_like(x, x, "x");
  if (!delta.empty()) check_like(delta, x, "delta");
  QAT_CHECK(delta.empty() || !out.residual.empty(), "a sum has nowhere to go");
  if (!out.residual.empty()) check_like(out.residual, x, "residual");
  QAT_CHECK(wants_codes || !out.normed.empty(), "a norm has nowhere to go");
  if (!out.normed.empty()) check_like(out.normed, x, "normed");
  check_length(parameters.weight, x.cols, "weight");
  check_length(parameters.bias, x.cols, "bias");
  check_length(out.mean, x.rows, "mean");
  check_length(out.rstd, x.rows, "rstd");
  if (wants_codes) check_codes(x, options, out);
  dispatch(
      exec, "residual_norm", [&] { residual_norm_cpu(exec, x, delta, parameters, options, out); },
      [&] { residual_norm_cuda(exec, x, delta, parameters, options, out); });
}

void residual_norm_backward(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved,
                            ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                            std::span<float> dbias) {
  check_like(dy, dy, "dy");
  check_like(saved.residual, dy, "residual");
  if (!dresidual_in.empty()) check_like(dresidual_in, dy, "dresidual_in");
  check_like(dresidual, dy, "dresidual");
  check_length(saved.weight, dy.cols, "weight");
  check_length(saved.mean, dy.rows, "mean");
  check_length(saved.rstd, dy.rows, "rstd");
  QAT_CHECK(dweight.empty() == dbias.empty(), "dweight and dbias are wanted together or not at all");
  if (!dweight.empty()) {
    check_length(dweight, dy.cols, "dweight");
    check_length(dbias, dy.cols, "dbias");
  }
  dispatch(
      exec, "residual_norm_backward",
      [&] { residual_norm_backward_cpu(exec, dy, saved, dresidual_in, dresidual, dweight, dbias); },
      [&] { residual_norm_backward_cuda(exec, dy, saved, dresidual_in, dresidual, dweight, dbias); });
}

}  // namespace qat::kernels
