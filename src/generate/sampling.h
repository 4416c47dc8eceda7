// Which token comes next, from the logits z of all tokens: pure functions of one row of them.
//
//   penalty (Keskar et al. 2019, arXiv:1909.05858, as transformers has it)
//                  z_i / r where z_i > 0, z_i r elsewhere, of tokens i that the text has already
//   temperature    p = softmax(z / T);  T = 0: the largest logit, and nothing is drawn
//   top-k          only tokens whose logit is at least the k-th largest (Fan et al. 2018, arXiv:1805.04833)
//   top-p          only the likeliest tokens, the fewest that have the probability p together (nucleus sampling,
//                  Holtzman et al. 2019, arXiv:1904.09751); equally likely ones by their ids, the lowest first
//
// in this order; top-p's probabilities are those among top-k's tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace qat {

struct SamplingOptions {
  double temperature = 0.0;         // >= 0; 0: greedy
  std::int64_t top_k = 0;           // >= 0; 0: all tokens
  double top_p = 1.0;               // in (0, 1]; 1: all tokens
  double repetition_penalty = 1.0;  // r, above 0; 1: none

  bool is_greedy() const { return temperature == 0.0; }
};

// `seen` are the tokens of the text so far, each once or oftener.
void penalize_repetition(std::span<float> logits, std::span<const int> seen, double penalty);

// The largest; of equal ones the first.
int greedy_choice(std::span<const float> logits);

struct Candidate {
  int token = 0;
  double probability = 0.0;
  friend bool operator==(const Candidate&, const Candidate&) = default;
};
// The tokens that may come next, by their ids, with probabilities of the sum 1. Requires temperature > 0 and finite
// logits, of which at least one.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options);

// The first candidate up to which the probabilities exceed u, in [0, 1).
int sampled_choice(std::span<const Candidate> candidates, double u);

// The draw for one token: uniform in [0, 1), a function of the seed, the prompt's number and the token's position in
// the text alone, whatever other prompts there are and wherever they are worked on.
double sampling_draw(std::uint64_t seed, std::uint64_t prompt, std::uint64_t position);

}  // namespace qat
