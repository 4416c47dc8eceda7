// int8 GEMMs of Hopper out of CUTLASS 3 parts: TMA loads, warp-specialized wgmma with int32 sums, and an epilogue that
// applies scales and bias while a tile is still in registers.
//
//   y[m,n] = (row_scales[m] col_scales[n]) float(sum_k a[m,k] b[n,k]) (+ bias[n])
//
// a: [M, K], b: [N, K] in int8, K a multiple of 16, N of 8; y: [M, N] in bf16 or fp32, written once: the sums never
// reach memory. code_matmul_sm90.cu has the tiles, and why these.
#pragma once

#include <cuda_bf16.h>
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/gemm/kernel/tile_scheduler.hpp>
#include <type_traits>

#include "kernels/common/device_scratch.h"
#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_sm90.h"

namespace qat::kernels::sm90 {

using cute::_0;
using cute::_1;
using cute::_128;
using cute::_2;

template <int kM, int kN>
using TileOf = cute::Shape<cute::Int<kM>, cute::Int<kN>, _128>;
using Alone = cute::Shape<_1, _1, _1>;
using PairOfRows = cute::Shape<_2, _1, _1>;  // two tiles above each other share their part of b: TMA multicast

// Two warp groups multiply different tiles in turn, one's epilogue under the other's products: for short K.
struct Pingpong {
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
  using Scheduler = cutlass::gemm::PersistentScheduler;
};
// Two warp groups share one tile, and the summed dimension may be cut across blocks (Osama et al., Stream-K, PPoPP
// 2023): int32 partial sums are exact, so the cut changes no bit. For few tiles and a deep sum, as weight gradients
// are.
struct CooperativeStreamK {
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
  using Scheduler = cutlass::gemm::StreamKScheduler;
};

// (row_scale col_scale) float(sum) + bias: each step rounded in fp32, as code_matmul_cpu.cc. `Sums` fetches float(sum).
template <class Tile, class Out, class Sums = cutlass::epilogue::fusion::Sm90AccFetch>
struct Epilogue {
  template <template <class> class Op, class To>
  using Compute = cutlass::epilogue::fusion::Sm90Compute<Op, To, float, cutlass::FloatRoundStyle::round_to_nearest>;
  template <class Op, class... Children>
  using Tree = cutlass::epilogue::fusion::Sm90EVT<Op, Children...>;
  // A stride of `bool` is 0 or 1 at run time: one scale for all, or one each.
  using RowScale = cutlass::epilogue::fusion::Sm90ColBroadcast<0, Tile, float, float, cute::Stride<bool, _0, _0>>;
  using ColScale = cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float, float, cute::Stride<_0, bool, _0>>;
  using Bias = cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float, float, cute::Stride<_0, _1, _0>>;
  using Scales = Tree<Compute<cutlass::multiplies, float>, RowScale, ColScale>;
  using Scaled = Tree<Compute<cutlass::multiplies, float>, Scales, Sums>;
  using Type = Tree<Compute<cutlass::plus, Out>, Scaled, Bias>;

  static typename Type::Arguments arguments(const Sm90Call& call) {
    // x + -0 is x for every x, -0 included.
    return {
        {{{call.row_scales, 0.0F, {call.per_row, _0{}, _0{}}}, {call.col_scales, 0.0F, {_0{}, call.per_col, _0{}}}, {}},
         {},
         {}},
        {call.bias, -0.0F, {}},
        {}};
  }
};

template <class Out, class Tile, class Cluster, class Schedule>
struct Gemm {
  static constexpr int kOutAlignment = 16 / static_cast<int>(sizeof(Out));
  static constexpr bool kStreamK = std::is_same_v<typename Schedule::Scheduler, cutlass::gemm::StreamKScheduler>;
  using Fusion = Epilogue<Tile, Out>;
  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, std::int32_t, float, void, cutlass::layout::RowMajor,
      kOutAlignment, Out, cutlass::layout::RowMajor, kOutAlignment, typename Schedule::Epilogue,
      typename Fusion::Type>::CollectiveOp;
  using CollectiveMainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, std::int8_t, cutlass::layout::RowMajor, 16, std::int8_t,
      cutlass::layout::ColumnMajor, 16, std::int32_t, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename CollectiveEpilogue::SharedStorage))>,
      typename Schedule::Mainloop>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, CollectiveMainloop,
                                                      CollectiveEpilogue, typename Schedule::Scheduler>;
  using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static typename Kernel::TileSchedulerArguments scheduling([[maybe_unused]] bool cut_sums) {
    typename Kernel::TileSchedulerArguments scheduler{};
    if constexpr (kStreamK) {
      using Params = cutlass::gemm::kernel::detail::PersistentTileSchedulerSm90StreamKParams;
      scheduler.decomposition_mode =
          cut_sums ? Params::DecompositionMode::StreamK : Params::DecompositionMode::DataParallel;
      // Lets the blocks of a tile add their partial sums without waiting for each other's turn. "Nondeterministic" is
      // true of floats only: these are int32, the same in any order.
      scheduler.reduction_mode = Params::ReductionMode::Nondeterministic;
    }
    return scheduler;
  }

  static bool launch(const Exec& exec, const Sm90Call& call, bool cut_sums) {
    const int m = static_cast<int>(call.m), n = static_cast<int>(call.n), k = static_cast<int>(call.k);
    // Strides are (row, 1, batch); there is one batch.
    typename Kernel::StrideA a_stride{};
    typename Kernel::StrideB b_stride{};
    typename Kernel::StrideC c_stride{};
    typename Kernel::StrideD y_stride{};
    cute::get<0>(a_stride) = call.k;
    cute::get<0>(b_stride) = call.k;
    cute::get<0>(c_stride) = call.stride;
    cute::get<0>(y_stride) = call.stride;
    typename Device::Arguments args{cutlass::gemm::GemmUniversalMode::kGemm,
                                    {m, n, k, 1},
                                    {call.a, a_stride, call.b, b_stride},
                                    {Fusion::arguments(call), nullptr, c_stride, static_cast<Out*>(call.y), y_stride}};
    args.hw_info.sm_count = call.sm_count;
    args.scheduler = scheduling(cut_sums);
    if (Device::can_implement(args) != cutlass::Status::kSuccess) return false;
    const DeviceScratch<std::uint8_t> workspace(exec, static_cast<std::int64_t>(Device::get_workspace_size(args)));
    Device gemm;
    if (gemm.initialize(args, workspace.get(), cuda_stream(exec)) != cutlass::Status::kSuccess) {
      (void)cudaGetLastError();  // a shape that does not fit is not an error of the stream
      return false;
    }
    const cutlass::Status status = gemm.run(cuda_stream(exec));
    QAT_CUDA_CHECK(cudaGetLastError());
    QAT_CHECK(status == cutlass::Status::kSuccess, cutlassGetStatusString(status));
    return true;
  }

  static bool whole(const Exec& exec, const Sm90Call& call) { return launch(exec, call, /*cut_sums=*/false); }
  static bool cut(const Exec& exec, const Sm90Call& call) { return launch(exec, call, /*cut_sums=*/true); }
};

}  // namespace qat::kernels::sm90
