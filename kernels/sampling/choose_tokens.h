// Which token comes next, from the logits z of all tokens, for each of some texts:
//
//   penalty (Keskar et al. 2019, arXiv:1909.05858, as transformers has it)
//                  z_i / r where z_i > 0, z_i r elsewhere, of tokens i that the text has already
//   temperature    p = softmax(z / T);  T = 0: the largest logit, of equal ones the first, and nothing is drawn
//   top-k          only tokens whose logit is at least the k-th largest (Fan et al. 2018, arXiv:1805.04833)
//   top-p          only the likeliest tokens, the fewest that have the probability p together (nucleus sampling,
//                  Holtzman et al. 2019, arXiv:1904.09751); equally likely ones by their ids, the lowest first
//
// in this order; top-p's probabilities are those among top-k's tokens. The draw takes the first token, by ids, up to
// which the probabilities exceed u.
//
// Probabilities are weights w_i = round(2^43 exp((z_i - max z) / T)), whole numbers (sampling_weight.h), over their
// sum. Sums of them are exact: CPUs and GPUs choose the same token, in whatever order they add. What would have less
// than 2^-44 of the likeliest token's probability does not come.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"

namespace qat::kernels {

struct SamplingOptions {
  double temperature = 0.0;         // >= 0; 0: greedy
  std::int64_t top_k = 0;           // >= 0; 0: all tokens
  double top_p = 1.0;               // in (0, 1]; 1: all tokens
  double repetition_penalty = 1.0;  // r, above 0; 1: none

  bool is_greedy() const { return temperature == 0.0; }
  bool has_penalty() const { return repetition_penalty != 1.0; }
};

constexpr std::int64_t kMostTokens = std::int64_t{1} << 20;  // of a vocabulary: sums of weights stay below 2^64

// logits: fp32 [B, V], 1 <= V <= kMostTokens, rows may have gaps between them.
// seen: [B, V], not 0 where the text has the token; empty without a penalty. What is chosen is marked in it, too.
// draws: [B], the random bits of u = draws[b] 2^-53, below 2^53; not read if greedy.
// tokens: [B], below V. finite: [B], 1; or 0 where a logit is NaN or infinite, and the token means nothing.
void choose_tokens(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                   Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                   std::span<std::int64_t> finite);

}  // namespace qat::kernels
