// See code_matmul_sm90.cuh. A layer's output onto its adapter's.
#include "kernels/gemm/code_matmul_sm90.cuh"

namespace qat::kernels {
namespace {

template <class Tile, class Cluster, class Schedule>
using Gemm = sm90::Gemm<cutlass::bfloat16_t, /*kAdd=*/true, Tile, Cluster, Schedule>;

using Square = Gemm<sm90::TileOf<128, 128>, sm90::PairOfRows, sm90::Pingpong>;

constexpr Sm90Tile kTiles[] = {{"128x128 pingpong", Square::whole}};

}  // namespace

std::span<const Sm90Tile> sm90_tiles_bf16_add() { return kTiles; }

}  // namespace qat::kernels
