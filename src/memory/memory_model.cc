#include "src/memory/memory_model.h"

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "dist/grad/flat_layout.h"
#include "dist/grad/tree_accumulator.h"
#include "src/memory/pass_memory.h"
#include "src/memory/wire_memory.h"
#include "src/model/gpt2_config.h"
#include "src/quant/gemm_path.h"
#include "src/quant/precision_map.h"
#include "src/quant/quant_method.h"
#include "src/schedule/schedule_rules.h"
#include "src/train/recipe.h"

namespace qat {
namespace {

constexpr std::int64_t kFp32 = 4;
constexpr std::int64_t kMiB = std::int64_t{1} << 20;
// Of a pass's residual stream: two that come and two that go, forward and backward.
constexpr std::int64_t kTransferBuffers = 4;

ParameterCount count_parameters(const RunConfig& config, const RankLayout& layout) {
  ParameterCount count = qat::count_parameters(config.model, config.lora, config.quant, layout.part);
  count.of_pass = std::min(count.of_widths, count.of_pass * widths_at_once(config.train.recipe, config.precision,
                                                                           config.quant.widths, config.model.n_layer));
  return count;
}

std::int64_t elems_of(const std::vector<TrainedMember>& members) {
  std::int64_t sum = 0;
  for (const TrainedMember& member : members)
    sum += std::accumulate(member.shape.begin(), member.shape.end(), std::int64_t{1}, std::multiplies<>());
  return sum;
}

// Of ranges that quantizers train, for each weight width.
std::map<int, std::int64_t> trained_range_elems(const Gpt2Config& model, const QuantConfig& quant,
                                                const StagePart& part) {
  const std::int64_t d = model.n_embd;
  const std::pair<std::int64_t, std::int64_t> shapes[kLinearsPerBlock] = {{3 * d, d}, {d, d}, {4 * d, d}, {d, 4 * d}};
  const std::vector<std::string> names = quantized_layer_names(model);
  const std::int64_t in_blocks = kLinearsPerBlock * model.n_layer;
  std::vector<std::size_t> linears;
  for (const std::int64_t block : part.blocks(model.n_layer))
    for (std::int64_t i = 0; i < kLinearsPerBlock; ++i)
      linears.push_back(static_cast<std::size_t>(kLinearsPerBlock * block + i));
  if (part.heads && std::ssize(names) > in_blocks) linears.push_back(static_cast<std::size_t>(in_blocks));
  std::map<int, std::int64_t> elems;
  for (const std::size_t i : linears) {
    const bool head = static_cast<std::int64_t>(i) == in_blocks;
    const auto [rows, cols] = head ? std::pair{model.vocab_size, d} : shapes[i % kLinearsPerBlock];
    std::set<int> weights;
    for (const LayerPrecision& precision : layer_precisions(quant, names[i])) {
      const int bits = precision.weight.bits();
      if (!precision.weight.is_full() && weights.insert(bits).second)
        elems[bits] += elems_of(quant_method(quant.weight, precision.weight).trained_members(rows, cols));
      if (!precision.activation.is_full())
        elems[bits] += elems_of(quant_method(quant.activation, precision.activation).trained_members(rows, cols));
    }
  }
  return elems;
}

std::int64_t norm_elems(const Gpt2Config& model, const StagePart& part) {
  return (4 * std::ssize(part.blocks(model.n_layer)) + (part.heads ? 2 : 0)) * model.n_embd;
}

// bits: 0 for adapters that all widths share.
std::int64_t adapter_elems(const Gpt2Config& model, const LoraConfig& lora, const StagePart& part, int bits) {
  const std::int64_t d = model.n_embd;
  std::int64_t of_block = 0;
  for (const auto& [in, out] : {std::pair{d, 3 * d}, {d, d}, {d, 4 * d}, {4 * d, d}})
    of_block += adapter_shape(lora, bits, in).rank * (in + out);
  return std::ssize(part.blocks(model.n_layer)) * of_block +
         (part.heads && model.quantize_lm_head ? adapter_shape(lora, bits, d).rank * (d + model.vocab_size) : 0);
}

std::int64_t local_micro_batches(const RunConfig& config, const RankLayout& layout) {
  return std::max<std::int64_t>(1, config.train.batch_size / (config.train.micro_batch_size * layout.ranks));
}

// Of how many maps' passes a width's own parameters have gradients, at most.
std::int64_t most_maps_of_a_width(const QuantConfig& quant) {
  std::map<int, std::int64_t> maps;
  for (const std::string& map : quant.maps)
    for (const int bits : weight_widths(parse_bitmap(map))) ++maps[bits];
  std::int64_t most = 1;
  for (const auto& [bits, count] : maps) most = std::max(most, count);
  return most;
}

// Of a token table that is trained here; 0: there is none.
std::int64_t table_elems(const RunConfig& config, const RankLayout& layout) {
  const bool has_table = layout.part.embeds || layout.part.heads;
  return config.model.freeze_base || !has_table ? 0 : config.model.vocab_size * config.model.n_embd;
}

// A tree needs buffers of all gradients. A running sum is one, and beside it the leaves that a pass is filling: two
// buckets, and the token table's, which backward begins and ends with.
std::int64_t gradient_sum_bytes(const RunConfig& config, const RankLayout& layout) {
  const ParameterCount count = count_parameters(config, layout);
  const std::int64_t passes = local_micro_batches(config, layout);
  // Of all passes of an update a leaf each; widths' own parameters have leaves of their own passes alone.
  const bool all_widths = config.train.recipe == Recipe::kSpnet || config.train.recipe == Recipe::kInstantnet;
  const bool drawn = config.train.recipe == Recipe::kSp;
  const std::int64_t maps = config.quant.maps.empty() ? std::ssize(config.quant.widths) : std::ssize(config.quant.maps);
  const std::int64_t of_step = all_widths ? maps
                               : drawn    ? config.train.students + (config.distill.teacher_cross_entropy > 0.0 ? 1 : 0)
                                          : 1;
  const std::int64_t shared = (count.trained - count.of_widths) * kFp32;
  const std::int64_t own = (all_widths ? count.of_widths : std::min(count.of_widths, of_step * count.of_pass)) * kFp32;
  const std::int64_t leaves = of_step * passes;
  const std::int64_t of_width = (all_widths || drawn ? most_maps_of_a_width(config.quant) : 1) * passes;
  if (config.train.accumulate == Accumulate::kTree)
    return dist::TreeAccumulator::buffers(leaves) * shared + dist::TreeAccumulator::buffers(of_width) * own;
  const std::int64_t trained = shared + own;
  if (leaves == 1) return trained;
  const std::int64_t table = table_elems(config, layout);
  return trained + std::min(trained, (table + 2 * dist::kBucketElems) * kFp32);
}

// What is there from the first step to the last, where the parameters are.
std::vector<MemoryConsumer> always(const RunConfig& config, const RankLayout& layout) {
  const ParameterCount count = count_parameters(config, layout);
  const std::int64_t everywhere = count.trained - count.of_widths + count.frozen;
  if (!layout.training || layout.ranks == 1) {
    const MemoryConsumer parameters{"parameters", (everywhere + count.of_widths) * kFp32};
    if (!layout.training) return {parameters};
    return {
        parameters, {"gradient sums", gradient_sum_bytes(config, layout)}, {"optimizer", 2 * count.trained * kFp32}};
  }
  // Those of a pass, and of the next one.
  const std::int64_t passes = sends_beside(config.comm, layout.cuda, config.parallel.pipeline) ? 2 : 1;
  const std::int64_t held = std::min(count.of_widths, passes * count.of_pass);
  std::vector<MemoryConsumer> all = {{"parameters", everywhere * kFp32},
                                     {"parameters of single widths", (count.of_widths / layout.ranks + held) * kFp32},
                                     {"gradient sums", gradient_sum_bytes(config, layout)},
                                     {"optimizer", 2 * count.trained * kFp32 / layout.ranks}};
  const std::int64_t table = table_elems(config, layout);
  for (MemoryConsumer& one : wire_memory(config.comm, count.trained, table, scales_by_row(config.quant), layout.ranks))
    all.push_back(std::move(one));
  return all;
}

// Of a range test, in main memory wherever the model is: what a rank answers for, with both moments
// (src/train/state_snapshot.h).
MemoryConsumer kept_aside(const RunConfig& config, const RankLayout& layout) {
  const bool tests =
      layout.training &&
      (layout.range_test || (config.train.recipe == Recipe::kCpt && waits_for_range_test(config.precision)));
  return {"state kept aside for the range test",
          tests ? 3 * count_parameters(config, layout).trained * kFp32 / layout.ranks : 0};
}

MemoryEstimate moment(std::string name, std::vector<MemoryConsumer> consumers,
                      std::initializer_list<MemoryConsumer> more) {
  consumers.insert(consumers.end(), more);
  std::erase_if(consumers, [](const MemoryConsumer& one) { return one.bytes == 0; });
  std::stable_sort(consumers.begin(), consumers.end(),
                   [](const MemoryConsumer& a, const MemoryConsumer& b) { return a.bytes > b.bytes; });
  return {std::move(name), std::move(consumers)};
}

MemoryEstimate larger(MemoryEstimate a, MemoryEstimate b) {
  return b.total() > a.total() ? std::move(b) : std::move(a);
}

// A tied table's gradients of micro-batches whose embeddings' part is on its way from the first stage.
std::int64_t waiting_table_bytes(const PassShape& pass) {
  const Gpt2Config& model = pass.config.model;
  if (pass.part.embeds || !pass.part.heads || !model.tie_lm_head || model.answers_questions() || model.freeze_base)
    return 0;
  return pass.part.waiting_tables * model.vocab_size * model.n_embd * kFp32;
}

// The worst of a step at one width: the loss, the first block of backward, or its end, when the gradients are there.
MemoryEstimate training_step(const PassShape& pass, std::int64_t passes, const std::vector<MemoryConsumer>& base) {
  const PassMemory memory = pass_memory(pass);
  const PassGradients gradients = pass_gradients(pass);
  const MemoryConsumer prepared{"weights as products read them", prepared_weight_bytes(pass)};
  const std::int64_t stream = pass.tokens() * pass.config.model.n_embd * pass.float_bytes();
  const std::int64_t transfers = pass.part.is_whole() ? 0 : kTransferBuffers * stream;
  // Of a pipeline's stage more passes wait for their backward than are at work.
  const std::int64_t kept = std::max(passes, pass.part.in_flight) * memory.kept;
  const auto now = [&](std::int64_t activations, std::int64_t loss, std::int64_t of_passes) {
    return moment("a training step", base,
                  {prepared,
                   {"activations", activations},
                   {"output projection and loss", passes * loss},
                   {"gradients of passes under way", passes * of_passes},
                   {"transfers between stages", transfers},
                   {"a table's gradients that wait for another stage", waiting_table_bytes(pass)}});
  };
  return larger(
      larger(now(kept, memory.loss, gradients.twice), now(kept + passes * memory.working, 0, 2 * gradients.twice)),
      now(kept - passes * memory.kept, 0, gradients.all + gradients.twice));
}

MemoryEstimate evaluation(const PassShape& pass, std::int64_t passes, const std::vector<MemoryConsumer>& base) {
  const PassMemory memory = pass_memory(pass);
  return moment("evaluation", base,
                {{"weights as products read them", prepared_weight_bytes(pass)},
                 {"activations", passes * memory.working},
                 {"output projection and loss", passes * memory.loss}});
}

// Hidden states that teachers leave until the last of their students has learnt from them.
std::int64_t taught_bytes(const RunConfig& config, const RankLayout& layout, const PassShape& student) {
  if (teacher_of(config.train.recipe, config.distill) == TeacherChoice::kNone) return 0;
  // Of the states that are compared, those that this part of the model has (Gpt2::has_states).
  std::vector<std::int64_t> here = student.blocks();
  if (student.part.heads) here.push_back(config.model.n_layer);
  const std::vector<int>& layers = config.distill.feature_layers;
  const auto may = std::count_if(here.begin(), here.end(), [&](std::int64_t number) {
    return layers.empty() || std::find(layers.begin(), layers.end(), number) != layers.end();
  });
  const bool all = config.distill.feature_pick == FeaturePick::kAll;
  const std::int64_t students = config.train.recipe == Recipe::kSp ? config.train.students
                                : config.train.recipe == Recipe::kSpnet || config.train.recipe == Recipe::kInstantnet
                                    ? std::ssize(config.quant.widths)
                                    : 1;
  const std::int64_t features = config.distill.features == 0.0 ? 0 : all ? may : std::min<std::int64_t>(may, students);
  // What a head makes logits of is where the head is.
  const std::int64_t states = (student.part.heads ? std::max<std::int64_t>(1, student.teachers) : 0) + features;
  return states * local_micro_batches(config, layout) * student.tokens() * config.model.n_embd * student.float_bytes();
}

// Training and evaluation at every width they visit.
MemoryEstimate passes_needed(const RunConfig& config, const RankLayout& layout,
                             const std::vector<MemoryConsumer>& base) {
  const std::int64_t training = std::min<std::int64_t>(layout.threads, local_micro_batches(config, layout));
  std::vector<int> widths = recipe_widths(config.train.recipe, config.precision, config.distill, config.quant.widths);
  MemoryEstimate most;
  const auto training_at = [&](PassShape pass) {
    pass.part = layout.part;
    std::vector<MemoryConsumer> with_teachers = base;
    with_teachers.push_back({"teachers' hidden states", taught_bytes(config, layout, pass)});
    if (!layout.cuda) with_teachers.push_back(kept_aside(config, layout));
    most = larger(std::move(most), training_step(pass, training, with_teachers));
  };
  if (!layout.training || !config.quant.maps.empty()) widths.clear();
  for (const int bits : widths) training_at(training_pass(config, layout.cuda, bits));
  if (layout.training)
    for (const std::string& map : config.quant.maps) training_at(map_pass(config, layout.cuda, map, /*training=*/true));
  const Evaluated evaluated = evaluated_by(config.eval, config.quant);
  const auto evaluated_at = [&](PassShape pass) {
    pass.part = layout.part;
    most = larger(std::move(most), evaluation(pass, layout.threads, base));
  };
  for (const int bits : evaluated.widths) evaluated_at(evaluation_pass(config, layout.cuda, bits));
  for (const std::string& map : evaluated.maps) evaluated_at(map_pass(config, layout.cuda, map, /*training=*/false));
  return most;
}

}  // namespace

std::int64_t MemoryEstimate::total() const {
  std::int64_t sum = 0;
  for (const MemoryConsumer& one : consumers) sum += one.bytes;
  return sum;
}

std::int64_t program_bytes(bool cuda) { return (cuda ? 2048 : 256) * kMiB; }

MemoryEstimate host_memory_needed(const RunConfig& config, const RankLayout& layout, std::int64_t program) {
  std::vector<MemoryConsumer> base = {{"program and libraries", program}};
  if (!layout.cuda) {
    const std::vector<MemoryConsumer> held = always(config, layout);
    base.insert(base.end(), held.begin(), held.end());
  }
  // Whatever the model's size (tests/src/checkpoint/save_memory_test.cc).
  MemoryEstimate saving = moment("saving a checkpoint", base, {{"blocks on their way to the disk", 32 * kMiB}});
  if (layout.cuda)
    return layout.training ? larger(saving, moment("the range test", base, {kept_aside(config, layout)}))
                           : moment("evaluation", base, {});
  const MemoryEstimate passes = passes_needed(config, layout, base);
  return layout.training ? larger(saving, passes) : passes;
}

MemoryEstimate gpu_memory_needed(const RunConfig& config, const RankLayout& layout) {
  std::vector<MemoryConsumer> base = always(config, layout);
  // CUDA's context, the libraries' kernels and work areas, NCCL's buffers; and what the allocator cannot use again.
  base.push_back({"CUDA and libraries", (layout.ranks > 1 ? 1536 : 1024) * kMiB});
  return passes_needed(config, layout, base);
}

std::map<int, std::int64_t> width_parameters(const Gpt2Config& model, const LoraConfig& lora, const QuantConfig& quant,
                                             const StagePart& part) {
  std::map<int, std::int64_t> own = trained_range_elems(model, quant, part);
  const std::int64_t norms = model.norm_slots == Slots::kPerWidth ? norm_elems(model, part) : 0;
  own[BitWidth::kFull] += norms;
  for (const int bits : quantized_weight_widths(quant))
    own[bits] += norms + (lora.slots == Slots::kPerWidth ? adapter_elems(model, lora, part, bits) : 0);
  return own;
}

ParameterCount count_parameters(const Gpt2Config& model, const LoraConfig& lora, const QuantConfig& quant,
                                const StagePart& part) {
  const std::int64_t d = model.n_embd, table = model.vocab_size * d;
  const auto blocks = std::ssize(part.blocks(model.n_layer));
  const std::int64_t norms = norm_elems(model, part);
  const std::int64_t linears = blocks * (12 * d * d + 9 * d);  // weights and biases
  const bool projects = part.heads && !model.answers_questions();
  const std::int64_t tables = (part.embeds ? 1 : 0) + (projects && !(model.tie_lm_head && part.embeds) ? 1 : 0);
  const std::int64_t base = tables * table + (part.embeds ? model.n_positions * d : 0) + linears;
  const bool own_norms = model.norm_slots == Slots::kPerWidth, own_adapters = lora.slots == Slots::kPerWidth;
  ParameterCount count{.trained = (own_norms ? 0 : norms) + (own_adapters ? 0 : adapter_elems(model, lora, part, 0))};
  if (part.heads && !projects) count.trained += 2 * d + 2;
  // A tied table is trained where the head is; the stage that embeds has a copy.
  const std::int64_t copy = part.embeds && !part.heads && model.tie_lm_head && !model.answers_questions() ? table : 0;
  count.frozen += copy;
  (model.freeze_base ? count.frozen : count.trained) += base - copy;
  const std::map<int, std::int64_t> own = width_parameters(model, lora, quant, part);
  // The pass's own width, which may be the largest that no override has, and those of overrides.
  std::set<int> beside;
  for (const LayerOverride& rule : quant.overrides)
    if (rule.weight_bits != 0) beside.insert(rule.weight_bits);
  std::int64_t largest = own_norms ? norms : 0;  // of one width, 32 too
  count.of_widths = own.at(BitWidth::kFull);
  for (const int bits : quantized_weight_widths(quant)) {
    count.of_widths += own.at(bits);
    if (beside.contains(bits))
      count.of_pass += own.at(bits);
    else
      largest = std::max(largest, own.at(bits));
  }
  // Of inputs beside unquantized weights, which any pass may have.
  const std::int64_t full_ranges = own.at(BitWidth::kFull) - (own_norms ? norms : 0);
  count.of_pass += full_ranges;
  count.trained += count.of_widths;
  count.of_pass += largest;
  // A map's widths, and unquantized layers', whose norms are their own.
  for (const std::string& map : quant.maps) {
    std::int64_t of_map = own.at(BitWidth::kFull);
    for (const int bits : weight_widths(parse_bitmap(map))) of_map += own.at(bits);
    count.of_pass = std::max(count.of_pass, of_map);
  }
  count.of_pass = std::min(count.of_widths, count.of_pass);
  return count;
}

}  // namespace qat
