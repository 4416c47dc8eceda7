#include "src/config/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <set>
#include <utility>

#include "kernels/common/bit_width.h"
#include "src/base/glob_match.h"
#include "src/base/json.h"
#include "src/config/parallel_rules.h"
#include "src/config/quantizer_rules.h"
#include "src/config/warnings.h"
#include "src/config/width_lists.h"
#include "src/schedule/lr_schedule.h"
#include "src/schedule/schedule_rules.h"

namespace qat {
namespace {

using Paths = std::vector<std::string>;

std::string either(const std::vector<std::int64_t>& numbers) { return fmt::format("{}", fmt::join(numbers, " or ")); }

// The multiples of n next to x, from n on.
std::vector<std::int64_t> nearest_multiples(std::int64_t n, std::int64_t x) {
  const std::int64_t below = x / n * n;
  return below == 0 ? std::vector<std::int64_t>{n} : std::vector<std::int64_t>{below, below + n};
}

class Checker {
 public:
  explicit Checker(const RunConfig& config) : c_(config) {}

  Findings run() {
    paths();
    model();
    check_quantizers(c_, found_);
    overrides();
    maps();
    // The widths that there are include those of maps.
    const bool maps_are_maps = map_names_.size() == c_.quant.maps.size();
    if (maps_are_maps)
      for (Finding& fault : width_list_faults(c_)) found_.errors.push_back(std::move(fault));
    precision();
    data_and_eval();
    questions();
    training();
    check_pipeline(c_, found_);
    check_staged_run(c_, found_);
    distill();
    comm();
    optimizer();
    if (maps_are_maps) found_.warnings = find_warnings(c_);
    return std::move(found_);
  }

 private:
  void error(std::string path, std::string rule, Paths also = {}) {
    found_.errors.push_back({std::move(path), std::move(rule), std::move(also), "", ""});
  }

  // A shell replaces ~ at the beginning of a word alone: not in --set run.dir=~/runs, and nobody does in a file. Those
  // of data.train and data.val are replaced, as patterns.
  void paths() {
    const auto check = [&](const char* key, const std::vector<std::string>& names) {
      const bool found = std::any_of(names.begin(), names.end(),
                                     [](const std::string& name) { return name == "~" || name.starts_with("~/"); });
      if (found) error(key, "must not begin with ~, which no shell has replaced here: write the whole path, or $HOME");
    };
    check("run.dir", {c_.run.dir});
    check("run.resume", {c_.run.resume});
    check("model.init_from", {c_.model.init_from});
    check("data.merges", {c_.data.merges});
  }

  void model() {
    const Gpt2Config& m = c_.model;
    if (m.n_embd % m.n_head != 0)
      error(
          "model.n_embd",
          fmt::format("must be a multiple of model.n_head; nearest: {}", either(nearest_multiples(m.n_head, m.n_embd))),
          {"model.n_head"});
    if (m.init == ModelInit::kCheckpoint && m.init_from.empty())
      error("model.init_from", "must name a checkpoint or run folder when model.init is \"checkpoint\"",
            {"model.init"});
    // Nobody who names parameters wants a run of days from random ones by oversight.
    if (m.init == ModelInit::kRandom && !m.init_from.empty())
      found_.errors.push_back({.path = "model.init_from",
                               .rule = "would have no effect: add model.init=checkpoint to begin from it, or "
                                       "model.init=random to begin from random parameters",
                               .also = {"model.init"},
                               .element = "",
                               .value = "",
                               .unless_given = "model.init"});
  }

  void overrides() {
    const std::vector<std::string> names = quantized_layer_names(c_.model);
    for (std::size_t i = 0; i < c_.quant.overrides.size(); ++i) {
      const std::string& glob = c_.quant.overrides[i].layers;
      const auto matches = [&](const std::string& name) { return glob_match(glob, name); };
      if (std::any_of(names.begin(), names.end(), matches)) continue;
      found_.errors.push_back(
          {"quant.overrides",
           fmt::format("must match a quantized layer: h.0 .. h.{}, each with .attn.c_attn, "
                       ".attn.c_proj, .mlp.c_fc and .mlp.c_proj{}",
                       c_.model.n_layer - 1,
                       c_.model.quantize_lm_head ? ", and lm_head" : " (lm_head needs model.quantize_lm_head)"),
           {"model.n_layer", "model.quantize_lm_head"},
           fmt::format("[{}].layers", i),
           to_json(Value(glob))});
    }
  }

  // The map, laid over the model; nothing, and an error, if it is none.
  std::optional<BitmapText> map_at(const char* path, std::size_t i, const std::string& text) {
    try {
      BitmapText map = parse_bitmap(text);
      (void)expand(map, c_.model.bitmap_shape());
      return map;
    } catch (const Error& fault) {
      element_error(path, i, text, fault.what(), {"model.n_layer"});
      return std::nullopt;
    }
  }

  void element_error(const char* path, std::size_t i, const std::string& text, std::string rule, Paths also) {
    found_.errors.push_back({path, std::move(rule), std::move(also), fmt::format("[{}]", i), to_json(Value(text))});
  }

  void maps() {
    trained_.insert(c_.quant.widths.begin(), c_.quant.widths.end());
    for (const LayerOverride& rule : c_.quant.overrides)
      if (rule.weight_bits != 0) trained_.insert(rule.weight_bits);
    for (std::size_t i = 0; i < c_.quant.maps.size(); ++i) {
      const auto map = map_at("quant.maps", i, c_.quant.maps[i]);
      if (!map) continue;
      if (std::find(map_names_.begin(), map_names_.end(), map->name) != map_names_.end())
        element_error("quant.maps", i, c_.quant.maps[i], "must not have the name of another map", {});
      map_names_.push_back(map->name);
      for (const int bits : weight_widths(*map)) trained_.insert(bits);
      const BitmapShape shape = c_.model.bitmap_shape();
      if (nominal_width(expand(*map, shape), shape) != BitWidth::kFull) ++quantized_maps_;
    }
    for (std::size_t i = 0; i < c_.quant.overrides.size() && !c_.quant.maps.empty(); ++i) {
      const LayerOverride& rule = c_.quant.overrides[i];
      if (rule.weight_bits == 0 && rule.activation_bits == 0) continue;
      element_error("quant.overrides", i, rule.layers,
                    "must change gradient_bits alone where there are quant.maps, which say the other widths of every "
                    "layer",
                    {"quant.maps"});
    }
    for (std::size_t i = 0; i < c_.eval.maps.size(); ++i)
      if (const auto map = map_at("eval.maps", i, c_.eval.maps[i])) slots_of(*map, i);
  }

  // Where widths have parameters of their own, a map can have no others.
  void slots_of(const BitmapText& map, std::size_t i) {
    if (c_.lora.slots == Slots::kShared && c_.model.norm_slots == Slots::kShared) return;
    for (const int bits : weight_widths(map))
      if (!trained_.contains(bits))
        return element_error("eval.maps", i, c_.eval.maps[i],
                             fmt::format("must have no weights of {} bits: the model has adapters or layer norms of "
                                         "its own for each of the widths {}",
                                         bits, fmt::join(trained_, ", ")),
                             {"lora.slots", "model.norm_slots"});
  }

  void precision() {
    const PrecisionScheduleConfig& p = c_.precision;
    if (c_.train.recipe != Recipe::kCpt) {
      if (p.grad_kind == GradientSchedule::kScheduled)
        error("precision.grad_kind",
              fmt::format("must be \"constant\" for train.recipe \"{}\": its steps follow no schedule of widths",
                          enum_name(c_.train.recipe)),
              {"train.recipe"});
      return;
    }
    if (!c_.quant.maps.empty() && map_names_.size() != c_.quant.maps.size()) return;  // they have errors of their own
    // Epochs are counted when data is open.
    const bool known = p.unit == ScheduleUnit::kStep;
    if (waits_for_range_test(p) && c_.range_test.form == RangeTestForm::kAccuracy && c_.model.answers_questions())
      error("range_test.form", "must be \"plateau\" for a model that answers questions: it has no tokens to get right",
            {"model.task"});
    add(schedule_faults(p, c_.quant.widths, known ? std::optional(c_.train.steps) : std::nullopt, map_names_));
  }

  void add(std::vector<ScheduleFault> faults) {
    for (ScheduleFault& fault : faults)
      found_.errors.push_back({std::move(fault.key), std::move(fault.rule), std::move(fault.also), fault.element,
                               fault.element.empty() ? "" : std::move(fault.value)});
  }

  void files(const std::string& path, const std::vector<std::string>& names) {
    if (!is_builtin(names)) return;
    if (names.size() > 1) error(path, "\"builtin\" must stand alone");
    if (c_.model.vocab_size < kByteVocabulary)
      error("model.vocab_size", fmt::format("must be at least {} for the built-in text", kByteVocabulary), {path});
  }

  void questions() {
    if (!c_.model.answers_questions()) return;
    if (c_.model.quantize_lm_head)
      error("model.quantize_lm_head", "must be false: a model that answers questions has no output projection",
            {"model.task"});
    const DataConfig& d = c_.data;
    const bool gpt2 = d.tokenizer == TokenizerKind::kGpt2;
    if (gpt2 && d.merges.empty())
      error("data.merges", "must name merges.txt for the tokenizer gpt2", {"data.tokenizer"});
    if (!gpt2 && !d.merges.empty())
      error("data.merges", "must be empty: the byte tokenizer takes no merges", {"data.tokenizer"});
    if (gpt2 && (is_builtin(d.train) || is_builtin(d.val)))
      error("data.tokenizer", "must be \"byte\" for the built-in questions", {"data.train", "data.val"});
    const std::int64_t room = d.sequence_length - d.question_tokens - 2;  // and two separators
    if (room < 1)
      error("data.question_tokens",
            fmt::format("must leave room for a context in data.sequence_length: at most {}", d.sequence_length - 3),
            {"data.sequence_length"});
    else if (d.window_advance > room)
      error(
          "data.window_advance",
          fmt::format("must not exceed {}, which beside a question is left of data.sequence_length, or tokens between "
                      "windows are left out",
                      room),
          {"data.sequence_length", "data.question_tokens"});
  }

  static bool is_builtin(const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), "builtin") != names.end();
  }

  void data_and_eval() {
    files("data.train", c_.data.train);
    files("data.val", c_.data.val);
    if (c_.data.sequence_length > c_.model.n_positions)
      error("data.sequence_length", "must not exceed model.n_positions", {"model.n_positions"});
    if (c_.eval.stride > c_.data.sequence_length)
      error("eval.stride", "must not exceed data.sequence_length, or tokens between windows are left out",
            {"data.sequence_length"});
    if (c_.eval.max_tokens == 1)
      error("eval.max_tokens", "must be at least 2, or 0 for all: the first token has nothing to be predicted from");
    for (std::size_t i = 0; i < c_.eval.bits.size(); ++i) {
      const int bits = c_.eval.bits[i];
      if (bits == BitWidth::kFull || trained_.contains(bits)) continue;
      found_.errors.push_back({"eval.bits",
                               "must be one of quant.widths, or 32",
                               {"quant.widths"},
                               fmt::format("[{}]", i),
                               std::to_string(bits)});
    }
  }

  void training() {
    const TrainConfig& t = c_.train;
    add(lr_faults(c_.lr, t.steps));
    if (t.batch_size % t.micro_batch_size != 0)
      error("train.micro_batch_size",
            fmt::format("must divide train.batch_size; nearest: {}",
                        either(nearest_divisors(t.batch_size, t.micro_batch_size))),
            {"train.batch_size"});
    // Of a weight gradient on codes: sums of so many products stay in int32.
    constexpr std::int64_t kMostTokens = 131072;
    if (c_.precision.grad_min_bits <= 8 && t.micro_batch_size * c_.data.sequence_length > kMostTokens)
      error("train.micro_batch_size",
            fmt::format("times data.sequence_length must not exceed {} tokens with gradients on codes: at most {} "
                        "sequences here; train.batch_size stays as it is, in more passes",
                        kMostTokens, kMostTokens / c_.data.sequence_length),
            {"data.sequence_length", "precision.grad_min_bits"});
    if (c_.compute.device == DeviceChoice::kCpu &&
        (c_.compute.dtype == FloatChoice::kBf16 || c_.compute.dtype == FloatChoice::kTf32))
      error("compute.dtype", "must be \"auto\" or \"fp32\" on CPUs", {"compute.device"});
    if (c_.parallel.pipeline > c_.model.n_layer)
      error("parallel.pipeline", "must not exceed model.n_layer: a stage has at least one block", {"model.n_layer"});
  }

  void comm() {
    const std::int64_t block = c_.comm.block;
    if ((block & (block - 1)) != 0)
      error("comm.block",
            fmt::format("must be a power of two; nearest: {} or {}", std::bit_floor(static_cast<std::uint64_t>(block)),
                        std::bit_ceil(static_cast<std::uint64_t>(block))));
  }

  void distill() {
    const DistillConfig& d = c_.distill;
    const Recipe recipe = c_.train.recipe;
    if (d.teacher == TeacherChoice::kWider && recipe != Recipe::kSp && recipe != Recipe::kInstantnet)
      error("distill.teacher",
            fmt::format("must not be \"wider\" with train.recipe \"{}\", which does not train from the widest width "
                        "down: take \"full\", or recipe sp or instantnet",
                        enum_name(recipe)),
            {"train.recipe"});
    const bool maps = !c_.quant.maps.empty();
    const auto students = maps ? quantized_maps_
                               : std::count_if(c_.quant.widths.begin(), c_.quant.widths.end(),
                                               [](int bits) { return bits != BitWidth::kFull; });
    if (recipe == Recipe::kSp && c_.train.students > students)
      error("train.students",
            fmt::format("must not exceed the {} {} below 32 in {}", students, maps ? "maps" : "widths",
                        maps ? "quant.maps" : "quant.widths"),
            {maps ? "quant.maps" : "quant.widths"});
    if (recipe == Recipe::kSp && c_.train.student_draw == StudentDraw::kSandwich && c_.train.students == 1 &&
        students > 1)
      error(
          "train.students",
          "must be at least 2 with train.student_draw \"sandwich\": the narrowest width is one of every step's, and no "
          "other would be trained",
          {"train.student_draw"});
    for (std::size_t i = 0; i < d.feature_layers.size(); ++i)
      if (d.feature_layers[i] > c_.model.n_layer)
        found_.errors.push_back({"distill.feature_layers",
                                 fmt::format("must be at most model.n_layer = {}", c_.model.n_layer),
                                 {"model.n_layer"},
                                 fmt::format("[{}]", i),
                                 std::to_string(d.feature_layers[i])});
    const bool teaches = d.teacher != TeacherChoice::kNone &&
                         (d.teacher != TeacherChoice::kAuto || recipe == Recipe::kSp || recipe == Recipe::kInstantnet);
    if (teaches && d.weight == 0.0 && d.cross_entropy == 0.0 && d.features == 0.0)
      error("distill.weight", "must not be 0 beside distill.cross_entropy and distill.features of 0: nothing is learnt",
            {"distill.cross_entropy", "distill.features"});
  }

  void optimizer() {
    // Clipped gradients are at most so large: below the square root of the smallest float, every second moment is 0.
    constexpr double kSmallestClip = 1e-20;
    if (c_.optim.clip_norm > 0.0 && c_.optim.clip_norm < kSmallestClip)
      error("optim.clip_norm", fmt::format("must be 0 (no clipping) or at least {}: fp32 loses the squares of smaller "
                                           "gradients",
                                           kSmallestClip));
  }

  const RunConfig& c_;
  std::set<int> trained_;               // widths of weights
  std::vector<std::string> map_names_;  // of quant.maps
  std::ptrdiff_t quantized_maps_ = 0;   // of them, those that count as less than 32 bits
  Findings found_;
};

// Words for a global batch that does not split evenly: which batch sizes, micro-batches or counts of ranks would.
std::string batch_mends(const TrainConfig& train, std::int64_t ranks) {
  const std::int64_t unit = train.micro_batch_size * ranks;
  std::string words = fmt::format("nearest: {}", either(nearest_multiples(unit, train.batch_size)));
  if (train.batch_size % ranks == 0)
    words += fmt::format("; or train.micro_batch_size = {}",
                         either(nearest_divisors(train.batch_size / ranks, train.micro_batch_size)));
  if (train.batch_size % train.micro_batch_size == 0)
    words += fmt::format("; or {} data-parallel ranks",
                         either(nearest_divisors(train.batch_size / train.micro_batch_size, ranks)));
  return words;
}

}  // namespace

std::vector<std::int64_t> nearest_divisors(std::int64_t n, std::int64_t x) {
  std::set<std::int64_t> divisors;
  for (std::int64_t d = 1; d * d <= n; ++d) {
    if (n % d == 0) divisors.insert({d, n / d});
  }
  if (divisors.contains(x)) return {x};
  std::vector<std::int64_t> nearest;
  const auto above = divisors.upper_bound(x);
  if (above != divisors.begin()) nearest.push_back(*std::prev(above));
  if (above != divisors.end()) nearest.push_back(*above);
  return nearest;
}

Findings cross_check(const RunConfig& config) { return Checker(config).run(); }

void validate_parallel(const RunConfig& config, int world_size) {
  QAT_CHECK(world_size >= 1, "a world has at least one rank");
  const std::int64_t stages = config.parallel.pipeline;
  std::int64_t ranks = config.parallel.data;
  std::vector<std::string> errors;
  if (ranks != 0 && ranks * stages != world_size) {
    errors.push_back(
        fmt::format("parallel.data * parallel.pipeline = {} * {} = {}, but {} ranks were started: start {}, "
                    "or set parallel.data to 0 (all of them)",
                    ranks, stages, ranks * stages, world_size, ranks * stages));
  } else if (ranks == 0 && world_size % stages != 0) {
    errors.push_back(fmt::format("parallel.pipeline = {}: must divide the number of ranks, {}; nearest: {}", stages,
                                 world_size, either(nearest_divisors(world_size, stages))));
  }
  if (stages > config.model.n_layer)
    errors.push_back(fmt::format("parallel.pipeline = {}: must not exceed model.n_layer = {}; nearest: {}", stages,
                                 config.model.n_layer, config.model.n_layer));
  if (ranks == 0) ranks = std::max<std::int64_t>(1, world_size / stages);
  const TrainConfig& train = config.train;
  if (train.batch_size % (train.micro_batch_size * ranks) != 0)
    errors.push_back(fmt::format(
        "train.batch_size = {}: must be a multiple of train.micro_batch_size * data-parallel "
        "ranks = {} * {} = {}; {}",
        train.batch_size, train.micro_batch_size, ranks, train.micro_batch_size * ranks, batch_mends(train, ranks)));
  if (const std::int64_t places = config.comm.ranks_per_node; places > 0 && ranks % places != 0)
    errors.push_back(fmt::format("comm.ranks_per_node = {}: must divide the data-parallel ranks, {}; nearest: {}",
                                 places, ranks, either(nearest_divisors(ranks, places))));
  if (errors.empty()) return;
  throw Error(ErrorKind::kConfig, fmt::format("the configuration does not fit {} rank{}:\n  {}", world_size,
                                              world_size == 1 ? "" : "s", fmt::join(errors, "\n  ")));
}

}  // namespace qat
