#include "kernels/gemm/matmul_plan.h"

#include <algorithm>
#include <bit>
#include <mutex>

namespace qat::kernels {
namespace {

constexpr int kWholeVector = 16;  // TMA addresses and strides are multiples of 16 bytes
// What kNarrow is chosen for has at least this many rows in its wide matrix: of fewer, a tile holds both sides.
constexpr std::int64_t kLeastWideRows = 512;

const char* narrow_obstacle(const MatmulProblem& p) noexcept {
  if (p.capability < 80) return "no int8 tensor cores of sm_80";
  if (std::min(p.m, p.n) > kMaxNarrowRows) return "neither M nor N is at most 64";
  if (p.k == 0) return "an empty sum";
  if (p.k % 16 != 0) return "K is not a multiple of 16";
  if (p.operand_alignment < kWholeVector) return "the codes are not 16-byte aligned";
  return nullptr;
}

const char* cutlass_obstacle(const MatmulProblem& p) noexcept {
  const std::int64_t vector_elems = kWholeVector / static_cast<std::int64_t>(size_of(p.out));
  if (p.out == DType::kInt32) return "bare sums have no scaling epilogue";
  if (p.accumulate) return "outputs that are added to have no kernel";
  if (p.capability != 90) return "not an sm_90 device";
  if (p.k == 0) return "an empty sum";
  if (p.k % 16 != 0) return "K is not a multiple of 16";
  if (p.n % 8 != 0) return "N is not a multiple of 8";
  if (p.operand_alignment < kWholeVector) return "the codes are not 16-byte aligned";
  if (p.out_alignment < kWholeVector) return "y is not 16-byte aligned";
  if (p.out_stride % vector_elems != 0) return "the rows of y are not 16-byte aligned";
  return nullptr;
}

const char* cublaslt_obstacle(const MatmulProblem& p) noexcept {
  if (p.capability < 75) return "no int8 tensor cores";
  if (p.k == 0) return "an empty sum";
  if (p.k % 4 != 0) return "K is not a multiple of 4";
  if (p.n % 4 != 0) return "N is not a multiple of 4";
  if (p.operand_alignment < kWholeVector) return "the codes are not 16-byte aligned";
  if (p.out == DType::kInt32 && p.out_alignment < kWholeVector) return "the sums are not 16-byte aligned";
  return nullptr;
}

const char* out_name(DType dtype) noexcept {
  if (dtype == DType::kInt32) return "int32";
  return dtype == DType::kBFloat16 ? "bf16" : "fp32";
}

struct SharedTuning {
  std::mutex mutex;
  MatmulTuning value;
};

SharedTuning& shared_tuning() {
  static SharedTuning tuning;
  return tuning;
}

}  // namespace

const char* name_of(MatmulPath path) noexcept {
  switch (path) {
    case MatmulPath::kNarrow:
      return "narrow";
    case MatmulPath::kCutlass:
      return "cutlass";
    case MatmulPath::kCublasLt:
      return "cublaslt";
    case MatmulPath::kSimple:
      return "simple";
  }
  return "?";
}

const char* obstacle_of(MatmulPath path, const MatmulProblem& problem) noexcept {
  switch (path) {
    case MatmulPath::kNarrow:
      return narrow_obstacle(problem);
    case MatmulPath::kCutlass:
      return cutlass_obstacle(problem);
    case MatmulPath::kCublasLt:
      return cublaslt_obstacle(problem);
    case MatmulPath::kSimple:
      return nullptr;
  }
  return "no such path";
}

MatmulPlan plan_code_matmul(const MatmulProblem& problem) {
  if (std::max(problem.m, problem.n) >= kLeastWideRows && narrow_obstacle(problem) == nullptr)
    return {MatmulPath::kNarrow, "one side is narrow"};
  const char* no_cutlass = cutlass_obstacle(problem);
  if (no_cutlass == nullptr) return {MatmulPath::kCutlass, "shape and addresses fit TMA"};
  const char* no_cublaslt = cublaslt_obstacle(problem);
  if (no_cublaslt == nullptr) return {MatmulPath::kCublasLt, no_cutlass};
  return {MatmulPath::kSimple, no_cublaslt};
}

std::int64_t tuned_size(std::int64_t n) noexcept {
  constexpr int kKeptBits = 4;  // the leading one among them
  const int bits = std::bit_width(static_cast<std::uint64_t>(n));
  if (bits <= kKeptBits) return n;
  const std::int64_t unit = std::int64_t{1} << (bits - kKeptBits);
  return (n + unit - 1) / unit * unit;
}

std::string to_text(const MatmulProblem& problem, const MatmulPlan& plan) {
  return std::to_string(problem.m) + " x " + std::to_string(problem.n) + " x " + std::to_string(problem.k) +
         (problem.accumulate ? " added to " : " to ") + out_name(problem.out) + " on sm_" +
         std::to_string(problem.capability) + ": " + name_of(plan.path) + " (" + plan.why + ")";
}

void set_matmul_tuning(const MatmulTuning& tuning) {
  const std::lock_guard lock(shared_tuning().mutex);
  shared_tuning().value = tuning;
}

MatmulTuning matmul_tuning() {
  const std::lock_guard lock(shared_tuning().mutex);
  return shared_tuning().value;
}

}  // namespace qat::kernels
