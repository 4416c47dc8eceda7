#include "src/train/parameter_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/eval/width_eval.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

std::vector<EvaluatedAt> trained_at(const QuantConfig& quant) {
  std::vector<EvaluatedAt> all = {EvaluatedAt(BitWidth::kFull)};
  for (const std::string& map : quant.maps) all.emplace_back(map);
  if (quant.maps.empty()) all.insert(all.end(), quant.widths.begin(), quant.widths.end());
  return all;
}

// Bytes of single widths' groups that one of these passes uses, or the other.
std::int64_t used_bytes(const Gpt2& model, const std::vector<bool>& one, const std::vector<bool>& other) {
  std::int64_t bytes = 0;
  for (std::size_t g = 0; g < one.size(); ++g) {
    const FlatGroup& group = model.parameters().groups()[g];
    if ((one[g] || other[g]) && group.key.kind == GroupKind::kWidth) bytes += group.layout.elems() * kFloatBytes;
  }
  return bytes;
}

}  // namespace

ParameterMemory parameter_memory(const Gpt2& model, const QuantConfig& quant, int ranks, std::int64_t widths_at_once,
                                 bool beside) {
  ParameterMemory memory;
  const auto everywhere = [&](GroupKind kind) -> std::int64_t& {
    return kind == GroupKind::kShared ? memory.shared : memory.base;
  };
  for (const ParameterInfo& info : model.parameters().infos())
    if (!info.trainable) everywhere(info.group.kind) += info.elems * kFloatBytes;
  for (const FlatGroup& group : model.parameters().groups()) {
    const std::int64_t bytes = group.layout.elems() * kFloatBytes;
    const std::int64_t own = group.layout.own_elems(ranks) * kFloatBytes;
    if (group.key.kind != GroupKind::kWidth) {
      everywhere(group.key.kind) += bytes;
      memory.moments += 2 * own;
      continue;
    }
    ++memory.widths;
    memory.all_widths += bytes;
    memory.widths_kept += own;
    memory.widths_moments += 2 * own;
  }
  if (ranks == 1 || memory.widths == 0) return memory;
  memory.next_too = beside;
  std::vector<std::vector<bool>> passes;
  for (const EvaluatedAt& at : trained_at(quant))
    passes.push_back(model.groups_used(evaluation_precision(model, quant, at)));
  for (const std::vector<bool>& pass : passes)
    for (const std::vector<bool>& next : passes)
      memory.widths_held = std::max(memory.widths_held, used_bytes(model, pass, beside ? next : pass));
  memory.widths_held = std::min(memory.all_widths, widths_at_once * memory.widths_held);
  return memory;
}

std::string describe(const ParameterMemory& memory) {
  std::string text = fmt::format("parameters in a rank's memory: base {}, shared by all widths {}, AdamW's moments {}",
                                 byte_size(memory.base), byte_size(memory.shared), byte_size(memory.moments));
  if (memory.widths == 0) return text;
  text += fmt::format("; {} widths have parameters of their own, {}, of which it keeps {}, with moments of {}",
                      memory.widths, byte_size(memory.all_widths), byte_size(memory.widths_kept),
                      byte_size(memory.widths_moments));
  if (memory.widths_held > 0)
    text += fmt::format(", and holds {} more while a pass uses them{}", byte_size(memory.widths_held),
                        memory.next_too ? " and those of the next one come" : "");
  return text;
}

}  // namespace qat
