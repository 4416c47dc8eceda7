#include "src/report/tensorboard.h"

#include <fmt/format.h>

#include <string>
#include <utility>

namespace qat {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string precision_tag(const char* group, const std::string& map, int bits) {
  return map.empty() ? fmt::format("{}/{}bit", group, bits) : fmt::format("{}/{}", group, map);
}

}  // namespace

EventSummary step_summary(const StepMetrics& metrics) {
  EventSummary summary;
  summary.scalar("loss/all", metrics.loss);
  if (metrics.passes.empty()) summary.scalar(precision_tag("loss", metrics.map, metrics.weight_bits), metrics.loss);
  for (const PassMetrics& pass : metrics.passes) {
    const auto add = [&](const char* group, const std::optional<double>& value) {
      if (value) summary.scalar(precision_tag(group, pass.map, pass.weight_bits), *value);
    };
    add("loss", pass.loss);
    add("distillation", pass.distillation);
    add("features", pass.features);
  }
  summary.scalar("train/learning_rate", metrics.lr);
  summary.scalar("train/grad_norm", metrics.grad_norm);
  summary.scalar("train/skipped", metrics.skipped ? 1.0 : 0.0);
  if (metrics.loss_change) summary.scalar("train/loss_change", *metrics.loss_change);
  if (metrics.passes.empty()) {  // a step with several passes has no widths of its own
    summary.scalar("bits/weights", metrics.weight_bits);
    summary.scalar("bits/activations", metrics.act_bits);
  }
  summary.scalar("bits/gradients", metrics.grad_bits);
  summary.scalar("bits/bitops_ratio", metrics.bitops_ratio);
  summary.scalar("speed/tokens_per_s", metrics.tokens_per_s);
  summary.scalar("speed/step_ms", metrics.step_ms);
  if (metrics.wire) {
    summary.scalar("wire/MiB", static_cast<double>(metrics.wire->bytes) / kMiB);
    summary.scalar("wire/exposed_ms", metrics.wire->exposed_ms);
    summary.scalar("wire/weight_exposed_ms", metrics.wire->weight_exposed_ms);
  }
  if (metrics.transfers) summary.scalar("transfers/MiB", static_cast<double>(metrics.transfers->bytes) / kMiB);
  if (metrics.memory) {
    summary.scalar("memory/MiB", static_cast<double>(metrics.memory->bytes) / kMiB);
    if (metrics.memory->reserved_bytes)
      summary.scalar("memory/reserved_MiB", static_cast<double>(*metrics.memory->reserved_bytes) / kMiB);
  }
  return summary;
}

EventSummary evaluation_summary(const Value& record) {
  EventSummary summary;
  const Value* map = record.find("map");
  const int bits = map != nullptr ? 0 : static_cast<int>(record.at("bits").as_int());
  const auto add = [&](const char* group, const char* key) {
    const Value* value = record.find(key);
    if (value != nullptr && value->is_number())
      summary.scalar(precision_tag(group, map != nullptr ? map->as_string() : "", bits), value->as_double());
  };
  add("perplexity", "perplexity");
  add("exact_match", "exact_match");
  add("f1", "f1");
  add("held_out_loss", "nll");
  return summary;
}

}  // namespace qat
