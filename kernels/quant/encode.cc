#include "kernels/quant/encode.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/encode_cpu.h"
#include "kernels/quant/encode_cuda.h"

namespace qat::kernels {
namespace {

template <typename M>
std::string shape_of(const M& m) {
  return shape_text(m.rows, m.cols);
}

void check_dtype(const Exec& exec, DType dtype, bool dense) {
  QAT_CHECK(dtype == DType::kFloat32 || (exec.device == Device::kCuda && dtype == DType::kBFloat16),
            "encoding takes fp32, and bf16 on a GPU");
  QAT_CHECK(dense, "encoding takes dense matrices");
}

void check_job(const Exec& exec, const EncodeCudaJob& job) {
  const auto& [x, factors, options, out] = job;
  check_dtype(exec, x.dtype, x.is_dense() || x.rows <= 1);
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(is_floor(options), "a scale must be positive, so the floor of its range must be, and a normal number");
  QAT_CHECK(x.size() == 0 || !out.codes.empty() || !out.codes_transposed.empty(), "encode has nowhere to write codes");
  QAT_CHECK(out.codes.empty() || (out.codes.rows == x.rows && out.codes.cols == x.cols),
            "codes are " + shape_text(out.codes) + " for x of " + shape_of(x));
  QAT_CHECK(
      out.codes_transposed.empty() || (out.codes_transposed.rows == x.cols && out.codes_transposed.cols == x.rows),
      "transposed codes are " + shape_text(out.codes_transposed) + " for x of " + shape_of(x));
  QAT_CHECK(factors.row_factors.empty() || length(factors.row_factors) == x.rows,
            std::to_string(factors.row_factors.size()) + " row factors for x of " + shape_of(x));
  QAT_CHECK(factors.col_factors.empty() || length(factors.col_factors) == x.cols,
            std::to_string(factors.col_factors.size()) + " column factors for x of " + shape_of(x));
}

EncodeJob cpu_job(const EncodeCudaJob& job) { return {require_fp32(job.x), job.factors, job.options, job.out}; }

void check_row_scales(std::span<const float> scales, std::int64_t rows) {
  QAT_CHECK(length(scales) == 1 || length(scales) == rows,
            std::to_string(scales.size()) + " scales for " + std::to_string(rows) + " rows (1 or one a row)");
}

}  // namespace

void encode_rows(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales) {
  encode_scaled_rows(exec, x, Factors{}, options, out, scales);
}

void encode_cols(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales) {
  encode_scaled_cols(exec, x, Factors{}, options, out, scales);
}

void encode_with_scales(const Exec& exec, ConstFloatMatrix x, std::span<const float> scales,
                        const EncodeOptions& options, const CodesOut& out) {
  const EncodeCudaJob job{x, Factors{}, options, out};
  check_job(exec, job);
  check_row_scales(scales, x.rows);
  dispatch(
      exec, "encode_with_scales", [&] { encode_with_scales_cpu(exec, cpu_job(job), scales, best_cpu_isa()); },
      [&] { encode_with_scales_cuda(exec, job, scales); });
}

void decode_rows(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, FloatMatrix x) {
  check_dtype(exec, x.dtype, x.is_dense() || x.rows <= 1);
  QAT_CHECK(x.rows == codes.rows && x.cols == codes.cols, "x is " + shape_of(x) + " for codes of " + shape_text(codes));
  check_row_scales(scales, codes.rows);
  dispatch(
      exec, "decode_rows", [&] { decode_rows_cpu(exec, codes, scales, require_fp32(x), best_cpu_isa()); },
      [&] { decode_rows_cuda(exec, codes, scales, x); });
}

void encode_scaled_rows(const Exec& exec, ConstFloatMatrix x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales) {
  const EncodeCudaJob job{x, factors, options, out};
  check_job(exec, job);
  QAT_CHECK(length(scales) == x.rows, std::to_string(scales.size()) + " row scales for x of " + shape_of(x));
  dispatch(
      exec, "encode_rows", [&] { encode_rows_cpu(exec, cpu_job(job), scales, best_cpu_isa()); },
      [&] { encode_rows_cuda(exec, job, scales); });
}

void encode_scaled_cols(const Exec& exec, ConstFloatMatrix x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales) {
  const EncodeCudaJob job{x, factors, options, out};
  check_job(exec, job);
  QAT_CHECK(length(scales) == x.cols, std::to_string(scales.size()) + " column scales for x of " + shape_of(x));
  dispatch(
      exec, "encode_cols", [&] { encode_cols_cpu(exec, cpu_job(job), scales, best_cpu_isa()); },
      [&] { encode_cols_cuda(exec, job, scales); });
}

}  // namespace qat::kernels
