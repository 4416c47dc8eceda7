#include "kernels/quant/prepare_adapters.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/prepare_adapters_cpu.h"
#include "kernels/quant/prepare_adapters_cuda.h"

namespace qat::kernels {
namespace {

void check_values(const char* name, const FloatMatrix& m, std::int64_t rows, std::int64_t cols, DType dtype) {
  QAT_CHECK(m.rows == rows && m.cols == cols && (m.is_dense() || rows <= 1),
            std::string(name) + " is " + shape_text(m.rows, m.cols) + " instead of " + shape_text(rows, cols) +
                ", or has gaps");
  QAT_CHECK(m.dtype == dtype, std::string(name) + " differs in dtype from others of the call");
}

void check_job(const Exec& exec, const AdapterJob& job, DType dtype) {
  const std::int64_t rank = job.a.rows, k = job.a.cols, n = job.b.rows;
  QAT_CHECK(job.b.cols == rank, "A is " + shape_text(job.a) + ", B is " + shape_text(job.b));
  QAT_CHECK(!job.options.width.is_full() && job.options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(job.options.width.bits()));
  QAT_CHECK(job.options.rounding == Rounding::kNearestEven, "adapters are rounded to the nearest code");
  QAT_CHECK(job.options.amax_floor >= kGradientAmaxFloor, "the floor of a range is too small to have a reciprocal");
  QAT_CHECK(length(job.weight_scales) == n,
            std::to_string(job.weight_scales.size()) + " scales of the weight for B of " + shape_text(job.b));
  QAT_CHECK(job.a_codes.rows == rank && job.a_codes.cols == k && length(job.a_scales) == rank,
            "codes are " + shape_text(job.a_codes) + " and scales " + std::to_string(job.a_scales.size()) +
                " for A of " + shape_text(job.a));
  QAT_CHECK(dtype == DType::kFloat32 || (exec.device == Device::kCuda && dtype == DType::kBFloat16),
            "adapters are fp32, and on a GPU also bf16");
  check_values("a_values", job.a_values, k, rank, dtype);
  check_values("b_values", job.b_values, n, rank, dtype);
  check_values("b_over_scales", job.b_over_scales, n, rank, dtype);
}

}  // namespace

void prepare_adapters(const Exec& exec, std::span<const AdapterJob> jobs) {
  for (const AdapterJob& job : jobs) check_job(exec, job, jobs.front().a_values.dtype);
  dispatch(
      exec, "prepare_adapters", [&] { prepare_adapters_cpu(exec, jobs); }, [&] { prepare_adapters_cuda(exec, jobs); });
}

}  // namespace qat::kernels
