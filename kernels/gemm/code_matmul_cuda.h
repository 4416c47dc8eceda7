// The CUDA half of code_matmul.h. Shapes are checked by code_matmul.cc.
#pragma once

#include <span>

#include "kernels/gemm/code_matmul.h"
#include "kernels/gemm/matmul_plan.h"

namespace qat::kernels {

struct CudaMatmul {
  Matrix<const std::int8_t> a;
  Matrix<const std::int8_t> b;
  CodeMatmulEpilogue epilogue;  // unused for sums
  FloatMatrix y;                // dtype kInt32: the sums as they are
};

// Plans, picks a tile and enqueues. Obeys matmul_tuning().
void code_matmul_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      const CodeMatmulEpilogue& epilogue, const FloatMatrix& y);
void code_matmul_sums_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                           Matrix<std::int32_t> sums);

// The plan of a call on the current device.
MatmulProblem problem_of(const CudaMatmul& call);

// Tiles of kCutlass for this kind of output: MatmulTuning::tile is an index below the count. The name of the tile that
// the last call of a shape took is for benchmarks; null if none has been picked.
int cutlass_tile_count(DType out);
const char* cutlass_tile_name(DType out, int tile);
const char* picked_tile_name(const MatmulProblem& problem);

// The paths. Each enqueues the whole call; obstacle_of(path, problem) is null.
void matmul_narrow(const Exec& exec, const CudaMatmul& call);
void matmul_cutlass(const Exec& exec, const CudaMatmul& call, const MatmulTuning& tuning);
bool matmul_cublaslt(const Exec& exec, const CudaMatmul& call);  // false, and nothing enqueued: no algorithm
void matmul_simple(const Exec& exec, const CudaMatmul& call);

}  // namespace qat::kernels
