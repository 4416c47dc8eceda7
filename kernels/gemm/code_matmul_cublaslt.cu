// The integer GEMM through cuBLASLt: int32 sums to memory, then a kernel that scales them.
//
//   sums[m,n] = sum_k a[m,k] b[n,k];   y[m,n] = (row_scales[m] col_scales[n]) float(sums[m,n]) (+ bias[n]), added or
//   not
//
// a: [M, K], b: [N, K] in int8, K and N multiples of 4; y: [M, N] in fp32 or bf16. Many rows go through the sums in
// turns, so that these take a bounded amount of memory.
//
// cuBLASLt counts columns first, so y = a b^T is asked for as y^T = b a^T with both operands "transposed" the way its
// int8 kernels want them: contiguous along the sum.
#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

#include "kernels/common/device_scratch.h"
#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_finish.cuh"

namespace qat::kernels {
namespace {

// Its handles and work areas are memory too, which may run out.
void check(cublasStatus_t status, const char* expression) {
  const std::string words = std::string(cublasLtGetStatusName(status)) + " in " + expression;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw Error(ErrorKind::kOutOfMemory, words);
  QAT_CHECK(status == CUBLAS_STATUS_SUCCESS, words);
}

// A macro only because it must quote the call.
#define QAT_CUBLASLT_CHECK(expr) check((expr), #expr)

constexpr std::int64_t kWorkspaceBytes = 32 << 20;
constexpr std::int64_t kSumBytes = 128 << 20;  // of sums at a time: rows are done in pieces of about this size
constexpr int kThreads = 256;

// One handle per device and process; cuBLASLt's are safe for all threads, and destroying one at exit would race with
// the driver's own end.
cublasLtHandle_t handle_of_device() {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (handle == nullptr) QAT_CUBLASLT_CHECK(cublasLtCreate(&handle));
  return handle;
}

class Layout {
 public:
  Layout(cudaDataType_t type, std::int64_t rows, std::int64_t cols) {
    QAT_CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&layout_, type, static_cast<std::uint64_t>(rows),
                                                  static_cast<std::uint64_t>(cols), rows));
  }
  ~Layout() { (void)cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Product {
 public:
  Product() {
    QAT_CUBLASLT_CHECK(cublasLtMatmulDescCreate(&desc_, CUBLAS_COMPUTE_32I, CUDA_R_32I));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    QAT_CUBLASLT_CHECK(
        cublasLtMatmulDescSetAttribute(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
    QAT_CUBLASLT_CHECK(cublasLtMatmulPreferenceCreate(&preference_));
    const auto bytes = static_cast<std::uint64_t>(kWorkspaceBytes);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes);
    const std::uint32_t alignment = 16;  // what the plan promises
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
  }
  ~Product() {
    if (preference_ != nullptr) (void)cublasLtMatmulPreferenceDestroy(preference_);
    if (desc_ != nullptr) (void)cublasLtMatmulDescDestroy(desc_);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  // sums[a.rows, b.rows] = a b^T; false if cuBLASLt has no kernel for it.
  bool run(const Exec& exec, const Matrix<const std::int8_t>& a, const Matrix<const std::int8_t>& b,
           const DeviceScratch<std::uint8_t>& workspace, std::int32_t* sums) const {
    const Layout left(CUDA_R_8I, b.cols, b.rows), right(CUDA_R_8I, a.cols, a.rows), out(CUDA_R_32I, b.rows, a.rows);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_of_device(), desc_, left.get(), right.get(),
                                                                 out.get(), out.get(), preference_, 1, &found, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) return false;
    QAT_CUBLASLT_CHECK(status);
    const std::int32_t one = 1, zero = 0;
    QAT_CUBLASLT_CHECK(cublasLtMatmul(handle_of_device(), desc_, &one, b.data, left.get(), a.data, right.get(), &zero,
                                      sums, out.get(), sums, out.get(), &found.algo, workspace.get(),
                                      static_cast<std::size_t>(kWorkspaceBytes), cuda_stream(exec)));
    return true;
  }

 private:
  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    QAT_CUBLASLT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)));
  }

  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

// Four sums a thread, one 16-byte load: cols is a multiple of 4.   sums: [rows, cols]; they start at row `first` of y.
template <typename Out>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const std::int32_t* sums, std::int64_t first, std::int64_t count, FinishArgs args) {
  const std::int64_t step = 4 * static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x); i < count; i += step) {
    const std::int64_t row = i / args.cols, col = i - row * args.cols;
    const int4 four = *reinterpret_cast<const int4*>(sums + i);
    finish_sum<Out>(args, first + row, col, four.x);
    finish_sum<Out>(args, first + row, col + 1, four.y);
    finish_sum<Out>(args, first + row, col + 2, four.z);
    finish_sum<Out>(args, first + row, col + 3, four.w);
  }
}

}  // namespace

bool matmul_cublaslt(const Exec& exec, const CudaMatmul& call) {
  const Product product;
  const DeviceScratch<std::uint8_t> workspace(exec, kWorkspaceBytes);
  if (call.y.dtype == DType::kInt32)
    return product.run(exec, call.a, call.b, workspace, static_cast<std::int32_t*>(call.y.data));
  const std::int64_t cols = call.b.rows, row_bytes = cols * 4;
  const std::int64_t at_once =
      std::clamp<std::int64_t>(kSumBytes / row_bytes / 16 * 16, 16, std::max<std::int64_t>(16, call.a.rows));
  const DeviceScratch<std::int32_t> sums(exec, std::min(at_once, call.a.rows) * cols);
  const FinishArgs args = finish_args(call);
  for (std::int64_t row = 0; row < call.a.rows; row += at_once) {
    const Matrix<const std::int8_t> piece{call.a.row(row), std::min(at_once, call.a.rows - row), call.a.cols};
    if (!product.run(exec, piece, call.b, workspace, sums.get())) {
      // Rows that are done would be added to twice if another path started over.
      QAT_CHECK(row == 0, "cuBLASLt has a kernel for some rows of a product and none for the rest");
      return false;
    }
    const std::int64_t count = piece.rows * cols;
    const std::int64_t blocks = std::min<std::int64_t>((count / 4 + kThreads - 1) / kThreads, 1 << 14);
    with_out_type(call.y.dtype, [&](auto out) {
      scale_kernel<decltype(out)>
          <<<static_cast<unsigned>(blocks), kThreads, 0, cuda_stream(exec)>>>(sums.get(), row, count, args);
    });
    QAT_CUDA_CHECK(cudaGetLastError());
  }
  return true;
}

}  // namespace qat::kernels
