#include "src/memory/pass_memory.h"

#include <algorithm>

#include "src/loss/head_chunk.h"
#include "src/memory/memory_model.h"
#include "src/quant/quant_method.h"

// Shape letters: M tokens of the pass, T of a sequence, d width, H heads, V vocabulary, r rank of the adapters; f bytes
// of a float.

namespace qat {
namespace {

constexpr std::int64_t kFp32 = 4;

// What a linear layer keeps of its input and its adapter.
std::int64_t kept_by_linear(const PassShape& pass, std::int64_t index) {
  const LinearShape linear = linear_of(pass, index);
  const LayerPrecision& precision = pass.precision.at(index);
  const AdapterShape adapter = adapter_of(pass, index);
  const std::int64_t tokens = pass.tokens(), f = pass.float_bytes();
  const std::int64_t input = linear.kept_anyway ? 0 : tokens * linear.in * f;
  std::int64_t bytes = tokens * adapter.rank * f;  // h
  // Beside what the layer keeps of its input; where that is not quantized, the same.
  if (reads_raw(adapter) && !precision.activation.is_full()) bytes += input;
  switch (path_of(pass, index)) {
    case GemmPath::kPlain:
      return input;
    case GemmPath::kCodes:  // transposed or not
      return bytes + tokens * linear.in + tokens * kFp32;
    case GemmPath::kWideCodes:  // fp16
      return bytes + 2 * tokens * linear.in;
    case GemmPath::kFakeQuant:
      if (precision.activation.is_full()) return bytes + input;
      // A gradient rule reads the input itself once more.
      return bytes + tokens * linear.in * f +
             (has_gradient_rule(pass.config.quant.activation, precision.activation) ? input : 0);
  }
  return bytes;
}

// What a linear layer's products read of its weights and its adapter, made of them once a step.
std::int64_t prepared_by_linear(const PassShape& pass, std::int64_t index) {
  const LinearShape linear = linear_of(pass, index);
  const AdapterShape adapter = adapter_of(pass, index);
  const std::int64_t f = pass.float_bytes(), rank = adapter.rank, weights = linear.in * linear.out;
  const std::int64_t b = rank * linear.out * f;                        // B's values
  const std::int64_t copies = backward_on_codes(pass, index) ? 2 : 1;  // and transposed
  switch (path_of(pass, index)) {
    case GemmPath::kPlain:
      return f == kFp32 ? 0 : weights * f;
    case GemmPath::kCodes:
      if (!on_codes(adapter)) return copies * weights + linear.out * kFp32 + rank * linear.in * f + b;
      return copies * (weights + rank * linear.in) + linear.out * kFp32 + b +
             (pass.cuda ? b + rank * linear.in * f : 0);  // on a GPU A's and B's once more, for one product of both
    case GemmPath::kWideCodes:
      return 2 * (weights + rank * linear.in) + b;
    case GemmPath::kFakeQuant:
      return (f == kFp32 && pass.precision.at(index).weight.is_full() ? 0 : weights * f) + rank * linear.in * f + b;
  }
  return 0;
}

// What one block keeps.
std::int64_t kept_by_block(const PassShape& pass, std::int64_t layer) {
  const Gpt2Config& model = pass.config.model;
  const std::int64_t tokens = pass.tokens(), d = model.n_embd, heads = model.n_head, f = pass.float_bytes();
  const std::int64_t first = kLinearsPerBlock * layer;
  std::int64_t bytes = tokens * (2 * d * f + 4 * kFp32);  // the residual stream before both norms; mean, deviation
  bytes += tokens * (3 * d * f + d * f + heads * kFp32);  // attention: q, k, v, output, logarithms of sums
  bytes += tokens * 4 * d * f;                            // GELU's input
  if (!pass.precision.kv(layer).is_full()) bytes += tokens * 2 * d * f;
  if (model.attn_dropout > 0.0)  // probabilities, and q, k, v by head
    bytes += tokens * (heads * pass.config.data.sequence_length + 3 * d) * f;
  for (std::int64_t i = first; i < first + kLinearsPerBlock; ++i) {
    const bool again = pass.config.compute.recompute == Recompute::kSelective && i == first + kLinearsPerBlock - 1 &&
                       is_fused(pass, layer);
    if (!again) bytes += kept_by_linear(pass, i);
  }
  return bytes;
}

struct BlocksMemory {
  std::int64_t kept = 0;   // from forward to backward
  std::int64_t again = 0;  // in backward, of the block that is computed once more
};

BlocksMemory chunk_memory(const PassShape& pass, const BlockRange& chunk) {
  const std::int64_t stream = pass.tokens() * pass.config.model.n_embd * pass.float_bytes();
  std::int64_t sum = 0, largest = 0, inputs = 0;
  for (std::int64_t layer = chunk.first; layer < chunk.last; ++layer) {
    const std::int64_t bytes = kept_by_block(pass, layer);
    sum += bytes, largest = std::max(largest, bytes);
    inputs += is_fused(pass, layer) ? 2 * stream : stream;  // the residual stream as a pair, or as one
  }
  if (pass.config.compute.recompute != Recompute::kBlock) return {.kept = sum};
  return {.kept = inputs, .again = largest};
}

BlocksMemory blocks_memory(const PassShape& pass) {
  if (pass.part.chunks.empty()) return chunk_memory(pass, {0, pass.config.model.n_layer});
  BlocksMemory most;
  for (const BlockRange& chunk : pass.part.chunks) {
    const BlocksMemory memory = chunk_memory(pass, chunk);
    most = {.kept = std::max(most.kept, memory.kept), .again = std::max(most.again, memory.again)};
  }
  return most;
}

// What comes and goes inside a block: mostly the MLP's matrices of 4 d, their gradients and codes.
std::int64_t working_bytes(const PassShape& pass, bool fused) {
  const Gpt2Config& model = pass.config.model;
  const std::int64_t tokens = pass.tokens(), d = model.n_embd, f = pass.float_bytes();
  if (!pass.training) {
    // Its product stands beside the layer's, and their sum.
    const bool adapter = adapter_of(pass, 0).rank > 0 && !fused;
    return tokens * ((adapter ? 14 : 10) * d * f + 4 * d);
  }
  std::int64_t bytes = tokens * (8 * d * f + (fused ? 8 : 12) * d);
  // The probabilities' gradients, when what the MLP kept is gone.
  if (model.attn_dropout > 0.0)
    bytes = std::max(bytes, tokens * (3 * model.n_head * pass.config.data.sequence_length - 4 * d) * f);
  return bytes;
}

std::int64_t loss_bytes(const PassShape& pass) {
  if (head_of(pass) == HeadKind::kNone) return 0;
  const std::int64_t tokens = pass.tokens(), f = pass.float_bytes();
  const std::int64_t hidden = (pass.training ? 2 : 1) * tokens * pass.config.model.n_embd * f;  // and its gradient
  // What the head reads, in fp32, and a few numbers a token; likewise of one teacher after the other.
  if (head_of(pass) == HeadKind::kAnswers)
    return hidden + (pass.teachers > 0 ? 2 : 1) * tokens * (pass.config.model.n_embd * (f == kFp32 ? 0 : kFp32) + 64);
  if (head_of(pass) == HeadKind::kByOperators)
    return hidden + (pass.teachers > 0 ? 8 : pass.training ? 2 : 3) * tokens * pass.config.model.vocab_size * kFp32;
  const std::int64_t copies = 1 + pass.teachers, row = head_rows(pass) * f;
  const std::int64_t rows = std::min(tokens, head_chunk_rows(tokens / copies, copies * row, pass.cuda));
  if (!pass.cuda && pass.teachers > 0) return hidden + rows * row * 8;  // distributions, their logarithms and products
  return hidden + rows * row * (pass.cuda ? copies : 2);                // on a CPU logits and their exponentials
}

}  // namespace

PassMemory pass_memory(const PassShape& pass) {
  const bool fused = is_fused(pass);
  PassMemory memory{.working = working_bytes(pass, fused), .loss = loss_bytes(pass)};
  if (!pass.training) return memory;
  const BlocksMemory blocks = blocks_memory(pass);
  memory.kept = blocks.kept;
  if (pass.part.heads)
    memory.kept += pass.tokens() * pass.config.model.n_embd * pass.float_bytes();  // by the last norm
  memory.working += blocks.again;
  if (head_of(pass) == HeadKind::kByOperators)
    memory.kept += kept_by_linear(pass, kLinearsPerBlock * pass.config.model.n_layer) +
                   pass.tokens() * pass.config.model.vocab_size * kFp32;
  return memory;
}

std::int64_t prepared_weight_bytes(const PassShape& pass) {
  const std::int64_t f = pass.float_bytes(), in_blocks = kLinearsPerBlock * pass.config.model.n_layer;
  std::int64_t bytes = 0;
  for (const std::int64_t block : pass.blocks())
    for (std::int64_t i = 0; i < kLinearsPerBlock; ++i) bytes += prepared_by_linear(pass, kLinearsPerBlock * block + i);
  const std::int64_t head = head_rows(pass) * pass.config.model.n_embd;
  switch (head_of(pass)) {
    case HeadKind::kPlain:
      return bytes + (f == kFp32 ? 0 : head * f);
    case HeadKind::kCodes:
      return bytes + head + (pass.training ? head * f : 0);
    case HeadKind::kByOperators:
      return bytes + prepared_by_linear(pass, in_blocks);
    case HeadKind::kNone:
    case HeadKind::kAnswers:
      return bytes;
  }
  return bytes;
}

PassGradients pass_gradients(const PassShape& pass) {
  const Gpt2Config& model = pass.config.model;
  // On a GPU backward leaves gradients where the sum wants them; only the norms' are copied there.
  if (pass.cuda) return {};
  // Of the embedding and of the projection that is the same table.
  const bool once = model.freeze_base || model.answers_questions() || !pass.part.embeds || !pass.part.heads;
  const std::int64_t table = once ? 0 : model.vocab_size * model.n_embd * kFp32;
  return {.all = count_parameters(model, pass.config.lora, pass.config.quant, pass.part).in_a_step() * kFp32,
          .twice = table};
}

}  // namespace qat
