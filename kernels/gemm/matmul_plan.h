// Which of the CUDA integer GEMMs multiplies two matrices of codes, and what tests may change about the choice.
//
// All of them give the same bits: the sums are exact, and what follows is rounded in one order (code_matmul.h). The
// choice is about speed and about what a kernel can address.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/common/view.h"

namespace qat::kernels {

enum class MatmulPath : std::uint8_t {
  kNarrow,    // sm_80: one matrix of few rows; streams the other one
  kCutlass,   // sm_90: TMA, warp-specialized int8 tensor-core kernels, scales in the epilogue
  kCublasLt,  // any tensor cores: int32 sums to memory, then a scaling kernel
  kSimple,    // any shape, any address
};
const char* name_of(MatmulPath path) noexcept;

constexpr std::int64_t kMaxNarrowRows = 64;  // of the narrow matrix of kNarrow

// What the choice depends on.   a: [m, k], b: [n, k], y: [m, n].
struct MatmulProblem {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType out = DType::kFloat32;  // fp32, bf16, or int32 for bare sums
  std::int64_t out_stride = 0;
  bool accumulate = false;
  int operand_alignment = 16;  // bytes: the largest power of two up to 16 that divides the addresses of a and b
  int out_alignment = 16;      // the same of y
  int capability = 0;          // of the device: 90 is compute capability 9.0
};

struct MatmulPlan {
  MatmulPath path = MatmulPath::kSimple;
  const char* why = "";  // for kNarrow and kCutlass, why they can be; otherwise what kCutlass and kCublasLt lack
};

// The fastest path that can run `problem`.
MatmulPlan plan_code_matmul(const MatmulProblem& problem);

// Null if `path` can run `problem`, else what is in its way.
const char* obstacle_of(MatmulPath path, const MatmulProblem& problem) noexcept;

// Up to one of eight sizes between a power of two and the next: 1..16, 18, 20, 22, ..., 32, 36, ... n >= 0.
std::int64_t tuned_size(std::int64_t n) noexcept;

// "65536 x 768 x 3072 to bf16 on sm_90: cutlass (...)"
std::string to_text(const MatmulProblem& problem, const MatmulPlan& plan);

// Several tiles of kCutlass fit most shapes. The first call of a shape in a process times them, and the fastest serves
// the calls that follow, and those of all shapes that are the same once M, N and K are rounded up: texts of every
// length come to some products each.
struct MatmulTuning {
  enum class Pick : std::uint8_t { kTimed, kFirst };  // kFirst: no timing, the first tile that can run the shape
  Pick pick = Pick::kTimed;
  // For tests: this path, or an error that says why it cannot run; and this tile of it.
  std::optional<MatmulPath> path;
  std::optional<int> tile;
};

// Of the whole process; calls under way on other threads may see either.
void set_matmul_tuning(const MatmulTuning& tuning);
MatmulTuning matmul_tuning();

}  // namespace qat::kernels
