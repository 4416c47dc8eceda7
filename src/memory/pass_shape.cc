#include "src/memory/pass_shape.h"

#include <algorithm>

#include "src/loss/head_chunk.h"
#include "src/train/recipe.h"

namespace qat {
namespace {

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

std::vector<std::int64_t> StagePart::blocks(std::int64_t n_layer) const {
  std::vector<std::int64_t> numbers;
  const auto add = [&](const BlockRange& range) {
    for (std::int64_t block = range.first; block < range.last; ++block) numbers.push_back(block);
  };
  if (chunks.empty()) add({0, n_layer});
  for (const BlockRange& chunk : chunks) add(chunk);
  return numbers;
}

LinearShape linear_of(const PassShape& pass, std::int64_t index) {
  const std::int64_t d = pass.config.model.n_embd;
  if (index == kLinearsPerBlock * pass.config.model.n_layer) return {.in = d, .out = pass.config.model.vocab_size};
  const LinearShape block[kLinearsPerBlock] = {{d, 3 * d}, {d, d, true}, {d, 4 * d}, {4 * d, d}};
  return block[index % kLinearsPerBlock];
}

GemmPath path_of(const PassShape& pass, std::int64_t index) {
  return choose_gemm_path(pass.config.quant, pass.precision.at(index), pass.cuda ? Device::kCuda : Device::kCpu);
}

AdapterShape adapter_of(const PassShape& pass, std::int64_t index) {
  const int bits = pass.precision.at(index).weight.bits();
  const bool shared = pass.config.lora.slots == Slots::kShared;
  if (!shared && bits == BitWidth::kFull) return {.rank = 0};
  AdapterShape shape = adapter_shape(pass.config.lora, shared ? 0 : bits, linear_of(pass, index).in);
  if (pass.cuda) shape.rank = (shape.rank + 7) / 8 * 8;  // filled up with zeros
  return shape;
}

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

HeadKind head_of(const PassShape& pass) {
  const std::int64_t index = kLinearsPerBlock * pass.config.model.n_layer;
  if (!pass.part.heads) return HeadKind::kNone;
  if (pass.config.model.answers_questions()) return HeadKind::kAnswers;
  if (!pass.config.model.quantize_lm_head || pass.precision.at(index).is_full()) return HeadKind::kPlain;
  const bool codes =
      path_of(pass, index) == GemmPath::kCodes && scales_by_row(pass.config.quant) && on_codes(adapter_of(pass, index));
  return codes ? HeadKind::kCodes : HeadKind::kByOperators;
}

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

std::int64_t PassShape::float_bytes() const {
  const FloatChoice dtype = config.compute.dtype;
  return cuda && (dtype == FloatChoice::kAuto || dtype == FloatChoice::kBf16) ? 2 : 4;
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
  for (const std::int64_t layer : pass.blocks())
    if (!is_fused(pass, layer)) return false;
  return true;
}

}  // namespace qat
