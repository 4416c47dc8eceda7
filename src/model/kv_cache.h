// The keys and values that blocks have worked out for the tokens so far, so that the next token is a pass of one token
// (Vaswani et al. 2017's decoder, step by step). For passes without gradient, on a model in one piece.
//
// Sequences of one batch may have prompts of different lengths: they begin at position 0 and stand at the left, and
// what fills them up behind counts for nothing. A token sees only what stands before it, so padding changes no bit of
// the tokens that count. Their positions go on where each prompt ends.
//
//   KvCache cache(config, mode, {5, 9}, capacity);             two prompts, of 5 and 9 tokens
//   context.kv_cache = &cache;
//   hidden(tokens [2, T], context)                             T >= 9: the prompts, padded
//   hidden(tokens [2, 1], context)                             at positions 5 and 9, then 6 and 10, ...
//
// Keys and values are kept as attention reads them without a cache: quantized at the width that the pass has for the
// block's keys and values (PrecisionMap::kv), one scale a token's key and one a token's value over all heads, as int8
// codes up to 8 bits and as floats above.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "kernels/common/bit_width.h"
#include "src/model/gpt2_config.h"
#include "src/quant/torch_device.h"

namespace qat {

class KvCache {
 public:
  // For sequences that begin with `prompts` tokens each, at least 1, and have up to `capacity`. The first pass has at
  // most that many tokens a sequence. Requires capacity <= config.n_positions. A sequence that is full stays as long as
  // it is: its last token is replaced, and whatever a pass gives for it means nothing.
  KvCache(const Gpt2Config& config, const ComputeMode& mode, const std::vector<std::int64_t>& prompts,
          std::int64_t capacity);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  std::int64_t sequences() const { return sequences_; }
  std::int64_t capacity() const { return capacity_; }
  // Whether the next pass, or the one under way, is that of the prompts.
  bool in_prompts() const { return in_prompts_; }

  // Gpt2's: around each pass of `tokens` tokens a sequence.
  void begin_pass(std::int64_t sequences, std::int64_t tokens);
  void end_pass();
  // Of a pass behind the prompts: int64 [B, 1].
  const at::Tensor& positions() const { return positions_; }

  // A block's, in a pass: the tokens' keys, and beside each its value. rows: [M, 2 D], int8 codes with scales, fp32
  // [M, 2], or floats with none.
  void append(std::int64_t layer, const at::Tensor& rows, const at::Tensor& scales);
  // Behind the prompts, where codes are kept: the same of floats, [B, 2 D], rows may have gaps, as codes of `width`.
  void append_codes(std::int64_t layer, const at::Tensor& rows, BitWidth width);
  // Behind the prompts, after append(): attention of q, [B, D] with or without gaps, over all that is kept: [B, D].
  at::Tensor attend(std::int64_t layer, const at::Tensor& q) const;

 private:
  struct Kept {
    at::Tensor rows;    // [B * capacity, 2 D]
    at::Tensor scales;  // fp32 [B * capacity, 2], or undefined
  };

  std::int64_t sequences_, capacity_, heads_, width_;
  bool in_prompts_ = true;
  std::int64_t pass_tokens_ = 0;  // of the pass under way
  // Where they are they stay, and passes change their values, so that a pass may be recorded (device_graph.h).
  at::Tensor lengths_;     // int64 [B]: tokens kept of each, this pass's among them
  at::Tensor positions_;   // int64 [B, 1]: of this pass's tokens
  at::Tensor first_rows_;  // int64 [B]: of each sequence in Kept
  at::Tensor pass_rows_;   // int64 [B]: where this pass's tokens go
  std::map<std::int64_t, Kept> layers_;
};

}  // namespace qat
