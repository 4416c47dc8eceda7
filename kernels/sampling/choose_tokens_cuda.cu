// A block a text. Each warp has a stretch of the vocabulary, which its lanes pass through side by side, so that a
// thread meets the same tokens every time, and reads back only what it has put down itself:
//
//   1. the largest logit and its token; where tokens are drawn, every logit is put down as a whole number in its order;
//   2. top-k: the k-th largest of these, three binary digits a pass: how many are not below seven candidates;
//   3. logits become weights;
//   4. top-p: likewise, the largest weight that the tokens not below it have the share p with; of the tokens of just
//      that weight come the first few;
//   5. the sums of the warps' stretches tell which one the draw falls into, and that warp walks through it.
//
// Vocabularies are long and texts few: passes are bound by the latency of one multiprocessor's reads, some
// microseconds each of what its L2 cache holds.
#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/sampling/choose_tokens_cuda.h"
#include "kernels/sampling/sampling_weight.h"

namespace qat::kernels {
namespace {

using Number = unsigned long long;  // what shuffles take

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kDigits = 3;                       // binary, of a pass
constexpr int kCandidates = (1 << kDigits) - 1;  // of a pass
constexpr unsigned kAllLanes = ~0U;

struct Args {
  const float* logits;
  std::int64_t stride;
  int vocabulary;
  int stretch;         // tokens of a warp, a multiple of 32
  std::uint8_t* seen;  // null: no penalty
  float penalty;
  const std::int64_t* draws;
  double temperature;     // 0: greedy
  std::int64_t top_k;     // 0 or vocabulary at least: all
  std::uint64_t p_share;  // of 2^53
  Number* cells;          // [B, V]: orders of logits, then weights; null if greedy
  std::int64_t* tokens;
  std::int64_t* finite;
};

// Of the whole block, the same in all threads.
struct Shared {
  Number slots[kWarps][kCandidates];
  Number result[kCandidates];
};

__device__ Number block_largest(Number value, Shared& shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  __syncthreads();  // what was there has been read
  if (threadIdx.x % 32 == 0) shared.slots[threadIdx.x / 32][0] = value;
  __syncthreads();
  value = shared.slots[threadIdx.x % 32][0];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

__device__ Number warp_sum(Number value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

__device__ void block_sums(Number (&sums)[kCandidates], Shared& shared) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (Number& sum : sums) sum = warp_sum(sum);
  __syncthreads();
  if (lane == 0)
#pragma unroll
    for (int c = 0; c < kCandidates; ++c) shared.slots[warp][c] = sums[c];
  __syncthreads();
  if (warp < kCandidates) {
    const Number sum = warp_sum(shared.slots[lane][warp]);
    if (lane == 0) shared.result[warp] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int c = 0; c < kCandidates; ++c) sums[c] = shared.result[c];
}

// The sums of the warps before this one, and of all; value: the warp's own.
struct Before {
  Number before, all;
};
__device__ Before over_warps(Number value, Shared& shared) {
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.slots[threadIdx.x / 32][0] = value;
  __syncthreads();
  Before sums{0, 0};
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == static_cast<int>(threadIdx.x / 32)) sums.before = sums.all;
    sums.all += shared.slots[warp][0];
  }
  return sums;
}

// A finite float as a number in the same order, and back.
__device__ std::uint32_t order_of(float z) {
  const std::uint32_t bits = __float_as_uint(z);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ float logit_of(std::uint32_t order) {
  return __uint_as_float((order & 0x80000000U) != 0 ? order & 0x7FFFFFFFU : ~order);
}

// The thread's tokens: visit(i).
template <typename Visit>
__device__ void for_own(const Args& args, Visit visit) {
  const int begin = static_cast<int>(threadIdx.x / 32) * args.stretch;
  const int end = min(begin + args.stretch, args.vocabulary);
#pragma unroll 4
  for (int i = begin + static_cast<int>(threadIdx.x % 32); i < end; i += 32) visit(i);
}

// The largest t below 2^(3 kPasses) for which the cells that are t or more have amounts of `needed` or more together;
// amounts: 1, or the cell itself. That t = 0 does is known.
template <int kPasses, bool kCount>
__device__ Number threshold(const Args& args, const Number* cells, Number needed, Shared& shared) {
  Number low = 0, beyond = 0;  // t is low or more; the amount of cells that no candidate is above
  for (int shift = kDigits * (kPasses - 1); shift >= 0; shift -= kDigits) {
    Number sums[kCandidates] = {};  // of cells not below low + (c + 1) << shift, without those in `beyond`
    for_own(args, [&](int i) {
      const Number cell = cells[i];
      if (cell < low) return;
      const Number digit = (cell - low) >> shift;
      if (digit > kCandidates) return;
      const Number amount = kCount ? 1 : cell;
#pragma unroll
      for (int c = 0; c < kCandidates; ++c) sums[c] += static_cast<int>(digit) > c ? amount : 0;
    });
    block_sums(sums, shared);
    int found = 0;
#pragma unroll
    for (int c = 0; c < kCandidates; ++c)
      if (beyond + sums[c] >= needed) found = c + 1;
    Number more = 0;
#pragma unroll
    for (int c = 0; c < kCandidates; ++c)
      if (c == found) more = sums[c];
    beyond += more;
    low += static_cast<Number>(found) << shift;
  }
  return low;
}

// What may come: weights above `last`, and the first `equal` tokens of just that weight.
struct Kept {
  Number last, equal;
};
__device__ Kept nucleus(const Args& args, const Number* weights, Number needed, Shared& shared) {
  constexpr int kPasses = kWeightBits / kDigits + 1;
  const Number last = threshold<kPasses, /*kCount=*/false>(args, weights, needed, shared);
  Number sums[kCandidates] = {};
  for_own(args, [&](int i) { sums[0] += weights[i] > last ? weights[i] : 0; });
  block_sums(sums, shared);
  return {last, (needed - sums[0] + last - 1) / last};
}

// The token that the draw falls on.
__device__ int drawn(const Args& args, const Number* weights, Kept kept, Number draw, Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Number above = 0, ties = 0;
  for_own(args, [&](int i) {
    above += weights[i] > kept.last ? weights[i] : 0;
    ties += kept.equal > 0 && weights[i] == kept.last ? 1 : 0;
  });
  above = warp_sum(above), ties = warp_sum(ties);
  const Number ties_before = over_warps(ties, shared).before;
  Number left =
      ties_before < kept.equal ? min(kept.equal - ties_before, ties) : 0;  // of this stretch's ties, the first
  const Before sums = over_warps(above + left * kept.last, shared);
  const Number target = share_of(draw, sums.all).whole;
  __shared__ int token;
  if (threadIdx.x == 0) token = 0;
  __syncthreads();
  if (sums.before <= target && target < sums.before + above + left * kept.last) {
    Number sum = sums.before;
    const int begin = static_cast<int>(threadIdx.x / 32) * args.stretch;
    for (int first = begin; first < begin + args.stretch; first += 32) {
      const int i = first + lane;
      const Number weight = i < args.vocabulary ? weights[i] : 0;
      const bool tie = kept.equal > 0 && i < args.vocabulary && weight == kept.last;
      const unsigned all_ties = __ballot_sync(kAllLanes, tie);
      const bool in = weight > kept.last || (tie && static_cast<Number>(__popc(all_ties & ((1U << lane) - 1))) < left);
      left -= min(left, static_cast<Number>(__popc(all_ties)));
      Number up_to = in ? weight : 0;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const Number lower = __shfl_up_sync(kAllLanes, up_to, offset);
        if (lane >= offset) up_to += lower;
      }
      const unsigned reached = __ballot_sync(kAllLanes, sum + up_to > target);
      if (reached != 0) {
        if (lane == 0) token = first + __ffs(static_cast<int>(reached)) - 1;
        break;
      }
      sum += __shfl_sync(kAllLanes, up_to, 31);
    }
  }
  __syncthreads();
  return token;
}

__global__ __launch_bounds__(kThreads) void choose_kernel(Args args) {
  __shared__ Shared shared;
  const std::int64_t text = blockIdx.x;
  const float* row = args.logits + text * args.stride;
  std::uint8_t* seen = args.seen == nullptr ? nullptr : args.seen + text * args.vocabulary;
  Number* cells = args.cells == nullptr ? nullptr : args.cells + text * args.vocabulary;

  Number best = 0;  // the order of a logit, and below it that of its token, the first the largest
  bool broken = false;
  for_own(args, [&](int i) {
    const float z = row[i];
    broken = broken || !isfinite(z);
    const std::uint32_t order = order_of(compared_logit(z, seen != nullptr && seen[i] != 0, args.penalty));
    best = max(best, (static_cast<Number>(order) << 32) | ~static_cast<std::uint32_t>(i));
    if (cells != nullptr) cells[i] = order;
  });
  broken = __syncthreads_or(broken ? 1 : 0) != 0;
  best = block_largest(best, shared);
  int token = broken ? 0 : static_cast<int>(~static_cast<std::uint32_t>(best));

  if (cells != nullptr && !broken) {
    Number least = 0;
    if (args.top_k > 0 && args.top_k < args.vocabulary)
      least = threshold</*kPasses=*/11, /*kCount=*/true>(args, cells, static_cast<Number>(args.top_k), shared);
    const double largest = logit_of(static_cast<std::uint32_t>(best >> 32));
    Number sums[kCandidates] = {};
    for_own(args, [&](int i) {
      const double z = logit_of(static_cast<std::uint32_t>(cells[i]));
      const Number weight = cells[i] < least ? 0 : sampling_weight((z - largest) / args.temperature);
      sums[0] += weight;
      cells[i] = weight;
    });
    Kept kept{0, 0};
    if (args.p_share < std::uint64_t{1} << kDrawBits) {
      block_sums(sums, shared);
      kept = nucleus(args, cells, share_of(args.p_share, sums[0]).up(), shared);
    }
    token = drawn(args, cells, kept, static_cast<Number>(args.draws[text]), shared);
  }
  if (threadIdx.x != 0) return;
  args.tokens[text] = token;
  args.finite[text] = broken ? 0 : 1;
  if (seen != nullptr) seen[token] = 1;
}

}  // namespace

void choose_tokens_cuda(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                        Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                        std::span<std::int64_t> finite) {
  const DeviceScratch<Number> cells(exec, options.is_greedy() ? 0 : logits.size());
  constexpr std::int64_t kStep = kWarps * 32;
  const Args args{.logits = static_cast<const float*>(logits.data),
                  .stride = logits.stride,
                  .vocabulary = static_cast<int>(logits.cols),
                  .stretch = static_cast<int>((logits.cols + kStep - 1) / kStep * 32),
                  .seen = options.has_penalty() ? seen.data : nullptr,
                  .penalty = static_cast<float>(options.repetition_penalty),
                  .draws = draws.data(),
                  .temperature = options.temperature,
                  .top_k = options.top_k,
                  .p_share = share_bits(options.top_p),
                  .cells = options.is_greedy() ? nullptr : cells.get(),
                  .tokens = tokens.data(),
                  .finite = finite.data()};
  choose_kernel<<<static_cast<unsigned>(logits.rows), kThreads, 0, cuda_stream(exec)>>>(args);
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
