// See code_matmul_sm90.cuh. Activations and their gradients; the narrow tile is for adapters, whose rank is 16 to 64.
#include "kernels/gemm/code_matmul_sm90.cuh"

namespace qat::kernels {
namespace {

template <class Tile, class Cluster, class Schedule>
using Gemm = sm90::Gemm<cutlass::bfloat16_t, Tile, Cluster, Schedule>;

using Square = Gemm<sm90::TileOf<128, 128>, sm90::PairOfRows, sm90::Pingpong>;
using Narrow = Gemm<sm90::TileOf<128, 64>, sm90::Alone, sm90::Pingpong>;

// Larger cooperative tiles (128x256, 256x128) were slower at every shape of GPT-2: with K = 768 the epilogue weighs
// more than the operands' traffic, and only pingpong hides it.
constexpr Sm90Tile kTiles[] = {{"128x128 pingpong", Square::whole}, {"128x64 pingpong", Narrow::whole}};

}  // namespace

std::span<const Sm90Tile> sm90_tiles_bf16() { return kTiles; }

}  // namespace qat::kernels
