#include "src/memory/pass_memory.h"

#include <algorithm>

#include "src/config/validate.h"
#include "src/loss/head_chunk.h"
#include "src/memory/memory_model.h"
#include "src/quant/gemm_path.h"
#include "src/quant/quant_method.h"
#include "src/train/recipe.h"

// Shape letters: M tokens of the pass, T of a sequence, d width, H heads, V vocabulary, r rank of the adapters; f bytes
// of a float.

namespace qat {
namespace {

constexpr std::int64_t kFp32 = 4;

// The linear layers of a block in the model's order.
struct Linear {
  std::int64_t in, out;
  bool kept_anyway = false;  // its input: attention keeps its own output
};

Linear linear_of(const PassShape& pass, std::int64_t index) {
  const std::int64_t d = pass.config.model.n_embd;
  if (index == kLinearsPerBlock * pass.config.model.n_layer) return {.in = d, .out = pass.config.model.vocab_size};
  const Linear block[kLinearsPerBlock] = {{d, 3 * d}, {d, d, true}, {d, 4 * d}, {4 * d, d}};
  return block[index % kLinearsPerBlock];
}

GemmPath path_of(const PassShape& pass, std::int64_t index) {
  return choose_gemm_path(pass.config.quant, pass.precision.at(index), pass.cuda ? Device::kCuda : Device::kCpu);
}

// That this layer has in the pass, if its rank is not 0.
AdapterShape adapter_of(const PassShape& pass, std::int64_t index) {
  const int bits = pass.precision.at(index).weight.bits();
  const bool shared = pass.config.lora.slots == Slots::kShared;
  if (!shared && bits == BitWidth::kFull) return {.rank = 0};
  AdapterShape shape = adapter_shape(pass.config.lora, shared ? 0 : bits, linear_of(pass, index).in);
  if (pass.cuda) shape.rank = (shape.rank + 7) / 8 * 8;  // filled up with zeros
  return shape;
}

// As AdapterSlot has it; so has a layer without an adapter.
bool on_codes(const AdapterShape& adapter) {
  return adapter.rank == 0 || (adapter.quantize && adapter.input == AdapterInput::kQuantized);
}
bool reads_raw(const AdapterShape& adapter) { return adapter.rank > 0 && adapter.input == AdapterInput::kRaw; }

bool backward_on_codes(const PassShape& pass, std::int64_t index) {
  return pass.training && pass.precision.at(index).gradient.bits() <= 8;
}

std::int64_t head_rows(const PassShape& pass) {
  const std::int64_t multiple = pass.cuda ? kHeadRowMultiple : 1;
  return (pass.config.model.vocab_size + multiple - 1) / multiple * multiple;
}

enum class Head : std::uint8_t { kPlain, kCodes, kByOperators, kAnswers };

// As Gpt2::head and chunked_head have it.
Head head_of(const PassShape& pass) {
  const std::int64_t index = kLinearsPerBlock * pass.config.model.n_layer;
  if (pass.config.model.answers_questions()) return Head::kAnswers;
  if (!pass.config.model.quantize_lm_head || pass.precision.at(index).is_full()) return Head::kPlain;
  const bool codes =
      path_of(pass, index) == GemmPath::kCodes && scales_by_row(pass.config.quant) && on_codes(adapter_of(pass, index));
  return codes ? Head::kCodes : Head::kByOperators;
}

// What a linear layer keeps of its input and its adapter.
std::int64_t kept_by_linear(const PassShape& pass, std::int64_t index) {
  const Linear linear = linear_of(pass, index);
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
  const Linear linear = linear_of(pass, index);
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

// As Block::fuses has it.
bool is_fused(const PassShape& pass, std::int64_t layer) {
  if (!pass.cuda) return false;
  for (std::int64_t i = kLinearsPerBlock * layer; i < kLinearsPerBlock * (layer + 1); ++i) {
    const GemmPath path = path_of(pass, i);
    const AdapterShape adapter = adapter_of(pass, i);
    const bool codes = path == GemmPath::kCodes && scales_by_row(pass.config.quant) &&
                       (on_codes(adapter) || reads_raw(adapter)) && (!pass.training || backward_on_codes(pass, i));
    if (path != GemmPath::kPlain && !codes) return false;
  }
  return true;
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

BlocksMemory blocks_memory(const PassShape& pass) {
  const std::int64_t layers = pass.config.model.n_layer;
  const std::int64_t stream = pass.tokens() * pass.config.model.n_embd * pass.float_bytes();
  std::int64_t sum = 0, largest = 0, inputs = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::int64_t bytes = kept_by_block(pass, layer);
    sum += bytes, largest = std::max(largest, bytes);
    inputs += is_fused(pass, layer) ? 2 * stream : stream;  // the residual stream as a pair, or as one
  }
  if (pass.config.compute.recompute != Recompute::kBlock) return {.kept = sum};
  return {.kept = inputs, .again = largest};
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
  const std::int64_t tokens = pass.tokens(), f = pass.float_bytes();
  const std::int64_t hidden = (pass.training ? 2 : 1) * tokens * pass.config.model.n_embd * f;  // and its gradient
  // What the head reads, in fp32, and a few numbers a token; likewise of one teacher after the other.
  if (head_of(pass) == Head::kAnswers)
    return hidden + (pass.teachers > 0 ? 2 : 1) * tokens * (pass.config.model.n_embd * (f == kFp32 ? 0 : kFp32) + 64);
  if (head_of(pass) == Head::kByOperators)
    return hidden + (pass.teachers > 0 ? 8 : pass.training ? 2 : 3) * tokens * pass.config.model.vocab_size * kFp32;
  const std::int64_t copies = 1 + pass.teachers, row = head_rows(pass) * f;
  const std::int64_t rows = std::min(tokens, head_chunk_rows(tokens / copies, copies * row, pass.cuda));
  if (!pass.cuda && pass.teachers > 0) return hidden + rows * row * 8;  // distributions, their logarithms and products
  return hidden + rows * row * (pass.cuda ? copies : 2);                // on a CPU logits and their exponentials
}

PassShape shape_of(const RunConfig& config, bool cuda, const LayerPrecision& precision, std::int64_t sequences,
                   bool training) {
  return {.config = config,
          .precision = PrecisionMap::make(quantized_layer_names(config.model), precision, config.quant.overrides,
                                          config.quant.kv_bits),
          .sequences = sequences,
          .cuda = cuda,
          .training = training};
}

}  // namespace

std::int64_t PassShape::float_bytes() const {
  const FloatChoice dtype = config.compute.dtype;
  return cuda && (dtype == FloatChoice::kAuto || dtype == FloatChoice::kBf16) ? 2 : kFp32;
}

PassShape training_pass(const RunConfig& config, bool cuda, int bits) {
  PassShape pass =
      shape_of(config, cuda, scheduled_precision(config.quant, bits, config.precision.most_gradient_bits()),
               config.train.micro_batch_size, /*training=*/true);
  const TeacherChoice teacher = teacher_of(config.train.recipe, config.distill);
  if (bits == BitWidth::kFull || teacher == TeacherChoice::kNone || config.distill.weight == 0.0) return pass;
  const std::vector<int>& widths = config.quant.widths;
  const auto wider =
      std::count_if(widths.begin(), widths.end(), [&](int one) { return one > bits && one != BitWidth::kFull; });
  const bool drawn = config.train.recipe == Recipe::kSp;  // a step has no more than its students
  pass.teachers = 1;
  if (teacher == TeacherChoice::kWider)
    pass.teachers += drawn ? std::min<std::int64_t>(wider, config.train.students - 1) : wider;
  return pass;
}

PassShape evaluation_pass(const RunConfig& config, bool cuda, int bits) {
  return shape_of(config, cuda, scheduled_precision(config.quant, bits), config.eval.batch_size,
                  /*training=*/false);
}

PassShape map_pass(const RunConfig& config, bool cuda, const std::string& map, bool training) {
  const int gradient_bits = training ? config.precision.most_gradient_bits() : BitWidth::kFull;
  return {.config = config,
          .precision = PrecisionMap::of_bitmap(quantized_layer_names(config.model), parse_bitmap(map),
                                               config.model.bitmap_shape(), config.quant, gradient_bits),
          .sequences = training ? config.train.micro_batch_size : config.eval.batch_size,
          .cuda = cuda,
          .training = training};
}

bool is_fused(const PassShape& pass) {
  for (std::int64_t layer = 0; layer < pass.config.model.n_layer; ++layer)
    if (!is_fused(pass, layer)) return false;
  return true;
}

PassMemory pass_memory(const PassShape& pass) {
  const bool fused = is_fused(pass);
  PassMemory memory{.working = working_bytes(pass, fused), .loss = loss_bytes(pass)};
  if (!pass.training) return memory;
  const BlocksMemory blocks = blocks_memory(pass);
  memory.kept = blocks.kept + pass.tokens() * pass.config.model.n_embd * pass.float_bytes();  // and by the last norm
  memory.working += blocks.again;
  if (head_of(pass) == Head::kByOperators)
    memory.kept += kept_by_linear(pass, kLinearsPerBlock * pass.config.model.n_layer) +
                   pass.tokens() * pass.config.model.vocab_size * kFp32;
  return memory;
}

std::int64_t prepared_weight_bytes(const PassShape& pass) {
  const std::int64_t f = pass.float_bytes(), in_blocks = kLinearsPerBlock * pass.config.model.n_layer;
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < in_blocks; ++i) bytes += prepared_by_linear(pass, i);
  const std::int64_t head = head_rows(pass) * pass.config.model.n_embd;
  switch (head_of(pass)) {
    case Head::kPlain:
      return bytes + (f == kFp32 ? 0 : head * f);
    case Head::kCodes:
      return bytes + head + (pass.training ? head * f : 0);
    case Head::kByOperators:
      return bytes + prepared_by_linear(pass, in_blocks);
    case Head::kAnswers:
      return bytes;
  }
  return bytes;
}

PassGradients pass_gradients(const PassShape& pass) {
  const Gpt2Config& model = pass.config.model;
  // On a GPU backward leaves gradients where the sum wants them; only the norms' are copied there.
  if (pass.cuda) return {};
  // Of the embedding and of the projection that is the same table.
  const bool once = model.freeze_base || model.answers_questions();
  const std::int64_t table = once ? 0 : model.vocab_size * model.n_embd * kFp32;
  return {.all = count_parameters(model, pass.config.lora, pass.config.quant).in_a_step() * kFp32, .twice = table};
}

}  // namespace qat
