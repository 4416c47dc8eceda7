#include "kernels/quant/encode_batch.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/encode_batch_cuda.h"

namespace qat::kernels {
namespace {

void check_job(const Exec& exec, const EncodeRowsJob& job) {
  const auto& [x, options, out, scales] = job;
  const std::string of_x = " for x of " + shape_text(x.rows, x.cols);
  QAT_CHECK(x.dtype == DType::kFloat32 || (exec.device == Device::kCuda && x.dtype == DType::kBFloat16),
            "encoding takes fp32, and bf16 on a GPU");
  QAT_CHECK(x.is_dense() || x.rows <= 1, "encoding takes dense matrices");
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor > 0.0F, "a scale must be positive, so the floor of its range must be");
  QAT_CHECK(x.size() == 0 || !out.codes.empty() || !out.codes_transposed.empty(), "encode has nowhere to write codes");
  QAT_CHECK(out.codes.empty() || (out.codes.rows == x.rows && out.codes.cols == x.cols),
            "codes are " + shape_text(out.codes) + of_x);
  QAT_CHECK(
      out.codes_transposed.empty() || (out.codes_transposed.rows == x.cols && out.codes_transposed.cols == x.rows),
      "transposed codes are " + shape_text(out.codes_transposed) + of_x);
  QAT_CHECK(length(scales) == x.rows, std::to_string(scales.size()) + " row scales" + of_x);
}

}  // namespace

void encode_rows_batch(const Exec& exec, std::span<const EncodeRowsJob> jobs) {
  for (const EncodeRowsJob& job : jobs) check_job(exec, job);
  dispatch(
      exec, "encode_rows_batch",
      [&] {
        for (const EncodeRowsJob& job : jobs) encode_rows(exec, job.x, job.options, job.out, job.scales);
      },
      [&] { encode_rows_batch_cuda(exec, jobs); });
}

}  // namespace qat::kernels
