#include "src/report/metrics_writer.h"

#include <utility>

#include "src/base/clock.h"

namespace qat {

Value to_value(const StepMetrics& metrics) {
  Value line = Value::object({{"step", metrics.step},
                              {"loss", metrics.loss},
                              {"lr", metrics.lr},
                              {"weight_bits", metrics.weight_bits},
                              {"act_bits", metrics.act_bits},
                              {"grad_bits", metrics.grad_bits},
                              {"grad_norm", metrics.grad_norm},
                              {"clipped", metrics.clipped},
                              {"tokens", metrics.tokens},
                              {"tokens_per_s", metrics.tokens_per_s},
                              {"step_ms", metrics.step_ms},
                              {"bitops", metrics.bitops},
                              {"bitops_ratio", metrics.bitops_ratio},
                              {"skipped", metrics.skipped},
                              {"skips_in_a_row", metrics.skips_in_a_row},
                              {"saving", metrics.saving}});
  if (!metrics.map.empty()) line.set("map", metrics.map);
  if (metrics.cycle) line.set("cycle", *metrics.cycle);
  if (metrics.wire)
    line.set("wire", Value::object({{"bytes", metrics.wire->bytes},
                                    {"fp32_bytes", metrics.wire->fp32_bytes},
                                    {"weight_bytes", metrics.wire->weight_bytes},
                                    {"exposed_ms", metrics.wire->exposed_ms},
                                    {"weight_exposed_ms", metrics.wire->weight_exposed_ms}}));
  if (metrics.transfers)
    line.set("transfers",
             Value::object({{"bytes", metrics.transfers->bytes}, {"bf16_bytes", metrics.transfers->bf16_bytes}}));
  if (metrics.memory) {
    Value memory = Value::object({{"bytes", metrics.memory->bytes}});
    if (metrics.memory->reserved_bytes) memory.set("reserved_bytes", *metrics.memory->reserved_bytes);
    line.set("memory", std::move(memory));
  }
  if (metrics.loss_change) {
    line.set("loss_change", *metrics.loss_change);
    line.set("switched", metrics.switched);
  }
  std::vector<Value> passes;
  for (const PassMetrics& pass : metrics.passes) {
    Value one = Value::object({{"weight_bits", pass.weight_bits}});
    if (pass.loss) one.set("loss", *pass.loss);
    if (pass.distillation) one.set("distillation", *pass.distillation);
    if (pass.features) one.set("features", *pass.features);
    if (!pass.map.empty()) one.set("map", pass.map);
    passes.push_back(std::move(one));
  }
  if (!passes.empty()) line.set("passes", Value::array(std::move(passes)));
  line.set("time", metrics.time);
  return line;
}

void MetricsWriter::write(StepMetrics metrics) {
  if (metrics.time.empty()) metrics.time = utc_time(std::chrono::system_clock::now());
  file_.append(to_value(metrics));
}

}  // namespace qat
