// code_matmul.h on a GPU: what the call asks for, the path that matmul_plan.h chooses for it, and that path.
#include <algorithm>
#include <string>

#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_cuda.h"

namespace qat::kernels {
namespace {

int alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer) | 16U;
  return static_cast<int>(address & (~address + 1));
}

int capability_of_device() {
  int device = 0, major = 0, minor = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

void run(const Exec& exec, const CudaMatmul& call) {
  if (call.y.rows == 0 || call.y.cols == 0) return;
  const MatmulTuning tuning = matmul_tuning();
  const MatmulProblem problem = problem_of(call);
  MatmulPlan plan = plan_code_matmul(problem);
  if (tuning.path.has_value()) {
    plan = {*tuning.path, "asked for"};
    const char* obstacle = obstacle_of(plan.path, problem);
    QAT_CHECK(obstacle == nullptr, to_text(problem, plan) + " cannot run: " + obstacle);
  }
  if (plan.path == MatmulPath::kNarrow) return matmul_narrow(exec, call);
  if (plan.path == MatmulPath::kCutlass) return matmul_cutlass(exec, call, tuning);
  if (plan.path == MatmulPath::kCublasLt && matmul_cublaslt(exec, call)) return;
  QAT_CHECK(!tuning.path.has_value() || plan.path == MatmulPath::kSimple,
            to_text(problem, plan) + " cannot run: cuBLASLt has no kernel for it");
  matmul_simple(exec, call);
}

}  // namespace

MatmulProblem problem_of(const CudaMatmul& call) {
  return {.m = call.a.rows,
          .n = call.b.rows,
          .k = call.a.cols,
          .out = call.y.dtype,
          .out_stride = call.y.stride,
          .accumulate = call.epilogue.accumulate,
          .operand_alignment = std::min(alignment_of(call.a.data), alignment_of(call.b.data)),
          .out_alignment = alignment_of(call.y.data),
          .capability = capability_of_device()};
}

void code_matmul_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      const CodeMatmulEpilogue& epilogue, const FloatMatrix& y) {
  run(exec, {a, b, epilogue, y});
}

void code_matmul_sums_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                           Matrix<std::int32_t> sums) {
  run(exec, {a, b, {}, {sums.data, sums.rows, sums.cols, sums.cols, DType::kInt32}});
}

}  // namespace qat::kernels
