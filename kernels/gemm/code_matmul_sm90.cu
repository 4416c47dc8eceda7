// The instances of code_matmul_sm90.cuh and code_matmul_sm90_adapter.cuh. In one file: CUTLASS's headers, and what is
// compiled of them whatever the kernel, take longer than a kernel does.
#include "kernels/gemm/code_matmul_adapter_cuda.h"
#include "kernels/gemm/code_matmul_sm90.cuh"
#include "kernels/gemm/code_matmul_sm90_adapter.cuh"

namespace qat::kernels {
namespace {

// Activations and their gradients. The narrow tile is for products of which the square one makes too few tiles for the
// GPU: 4096 tokens to 768 or 1024 outputs, and most products of 1024 tokens (15 to 20 % faster there on an H200; slower
// at all shapes from 8192 tokens on). Larger cooperative tiles (128x256, 256x128) were slower at every shape of GPT-2:
// with K = 768 the epilogue weighs more than the operands' traffic, and only pingpong hides it.
template <class Tile, class Cluster>
using Activations = sm90::Gemm<cutlass::bfloat16_t, Tile, Cluster, sm90::Pingpong>;
using Square = Activations<sm90::TileOf<128, 128>, sm90::PairOfRows>;
using Narrow = Activations<sm90::TileOf<128, 64>, sm90::Alone>;
constexpr Sm90Tile kTilesBf16[] = {{"128x128 pingpong", Square::whole}, {"128x64 pingpong", Narrow::whole}};

// Weight gradients: few tiles, sums over all tokens of a micro-batch. Wider tiles were slower at every shape of GPT-2,
// and there are too few of them to go round.
using Weights = sm90::Gemm<float, sm90::TileOf<128, 128>, sm90::Alone, sm90::CooperativeStreamK>;
constexpr Sm90Tile kTilesFp32[] = {{"128x128 stream-K", Weights::cut}, {"128x128", Weights::whole}};

// y = (row_scale col_scale) (sum of codes + h b^T) + bias, one pass over y.
using Tile = sm90::TileOf<128, 128>;
using Out = cutlass::bfloat16_t;
using Fusion = sm90::Epilogue<Tile, Out, sm90::FloatSums>;
using CollectiveEpilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, sm90::PairOfRows,
    cutlass::epilogue::collective::EpilogueTileAuto, std::int32_t, float, void, cutlass::layout::RowMajor, 8, Out,
    cutlass::layout::RowMajor, 8, sm90::Pingpong::Epilogue, Fusion::Type>::CollectiveOp;
using Codes = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, std::int8_t, cutlass::layout::RowMajor, 16, std::int8_t,
    cutlass::layout::ColumnMajor, 16, std::int32_t, Tile, sm90::PairOfRows,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(CollectiveEpilogue::SharedStorage))>,
    sm90::Pingpong::Mainloop>::CollectiveOp;
using Mainloop = sm90::AdapterMainloop<Codes>;
using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, CollectiveEpilogue,
                                                    cutlass::gemm::PersistentScheduler>;
using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

}  // namespace

std::span<const Sm90Tile> sm90_tiles_bf16() { return kTilesBf16; }

std::span<const Sm90Tile> sm90_tiles_fp32() { return kTilesFp32; }

void matmul_adapter_sm90(const Exec& exec, const Sm90Call& call, const void* h, const void* b, int rank) {
  Kernel::StrideA a_stride{};
  Kernel::StrideB b_stride{};
  Kernel::StrideC c_stride{};
  Kernel::StrideD y_stride{};
  cute::get<0>(a_stride) = call.k;
  cute::get<0>(b_stride) = call.k;
  cute::get<0>(c_stride) = call.stride;
  cute::get<0>(y_stride) = call.stride;
  Mainloop::Arguments mainloop{};
  mainloop.ptr_A = call.a;
  mainloop.dA = a_stride;
  mainloop.ptr_B = call.b;
  mainloop.dB = b_stride;
  mainloop.h = static_cast<const cutlass::bfloat16_t*>(h);
  mainloop.b = static_cast<const cutlass::bfloat16_t*>(b);
  mainloop.rank = rank;
  Device::Arguments args{cutlass::gemm::GemmUniversalMode::kGemm,
                         {static_cast<int>(call.m), static_cast<int>(call.n), static_cast<int>(call.k), 1},
                         mainloop,
                         {Fusion::arguments(call), nullptr, c_stride, static_cast<Out*>(call.y), y_stride}};
  args.hw_info.sm_count = call.sm_count;
  QAT_CHECK(Device::can_implement(args) == cutlass::Status::kSuccess, "a shape that takes_adapter() refuses");
  const DeviceScratch<std::uint8_t> workspace(exec, static_cast<std::int64_t>(Device::get_workspace_size(args)));
  Device gemm;
  cutlass::Status status = gemm.initialize(args, workspace.get(), cuda_stream(exec));
  if (status == cutlass::Status::kSuccess) status = gemm.run(cuda_stream(exec));
  QAT_CUDA_CHECK(cudaGetLastError());
  QAT_CHECK(status == cutlass::Status::kSuccess, cutlassGetStatusString(status));
}

}  // namespace qat::kernels
