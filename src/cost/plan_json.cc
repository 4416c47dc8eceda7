#include "src/cost/run_plan.h"
#include "src/cost/stage_report.h"

namespace qat {
namespace {

Value memory_value(const MemoryEstimate& memory) {
  Value consumers = Value::object();
  for (const MemoryConsumer& one : memory.consumers) consumers.set(one.name, one.bytes);
  return Value::object({{"total", memory.total()}, {"moment", memory.moment}, {"consumers", consumers}});
}

Value limit_value(std::int64_t bytes) { return bytes == kNoLimit ? Value() : Value(bytes); }

Value optional_value(const std::optional<double>& value) { return value ? Value(*value) : Value(); }

Value stage_value(const PlannedStage& stage, std::int64_t n_layer) {
  return Value::object({{"holds", stage_contents(stage.part)},
                        {"blocks", Value::array(stage.part.blocks(n_layer))},
                        {"parameters", stage.parameters.trained + stage.parameters.frozen},
                        {"trained", stage.parameters.trained},
                        {"time_share", stage.time_share},
                        {"passes_in_flight", stage.part.in_flight},
                        {"memory", memory_value(stage.memory)}});
}

Value width_value(const PlannedWidth& width) {
  return Value::object({{"bits", width.bits},
                        {"passes_a_step", width.passes},
                        {"pass_seconds", width.pass_s},
                        {"own_bytes", width.own_bytes},
                        {"own_bytes_on_a_rank", width.kept_bytes},
                        {"own_moments_on_a_rank", width.moments_bytes},
                        {"prepared_bytes", width.prepared_bytes}});
}

template <typename T, typename ToValue>
Value list(const std::vector<T>& items, const ToValue& to_value) {
  Value all = Value::array();
  for (const T& item : items) all.push_back(to_value(item));
  return all;
}

}  // namespace

Value to_value(const RunPlan& plan, const RunConfig& config) {
  const RankPlace& place = plan.machine.place;
  const StepTime& step = plan.step;
  return Value::object(
      {{"run_dir", config.run.dir},
       {"ranks", place.ranks},
       {"nodes", place.nodes},
       {"replicas", plan.replicas},
       {"micro_batches", plan.micro_batches},
       {"threads_per_rank", place.threads},
       {"device", plan.machine.device},
       {"rates", Value::object({{"name", place.rates.name},
                                {"source", place.rates.source},
                                {"node_bytes_per_second", place.links.node_bytes},
                                {"node_latency_seconds", place.links.node_latency_s},
                                {"network_bytes_per_second", place.links.network_bytes},
                                {"network_latency_seconds", place.links.network_latency_s}})},
       {"parameters", plan.parameters.trained + plan.parameters.frozen},
       {"trained", plan.parameters.trained},
       {"stages", list(plan.stages, [&](const PlannedStage& one) { return stage_value(one, config.model.n_layer); })},
       {"widths", list(plan.widths, width_value)},
       {"host_memory", memory_value(plan.host_memory)},
       {"available", limit_value(plan.available)},
       {"fits", plan.available == kNoLimit ? Value() : Value(plan.fits())},
       {"changes", list(plan.changes,
                        [](const MemoryChange& one) {
                          return Value::object({{"settings", one.settings}, {"bytes", one.bytes}});
                        })},
       {"step", Value::object({{"seconds", step.total()},
                               {"passes_seconds", step.passes_s},
                               {"idle_share", step.idle_share},
                               {"optimizer_seconds", step.update_s},
                               {"exchange_seconds", step.exchange_s},
                               {"hidden_exchange_seconds", step.hidden_s},
                               {"gradient_bytes", step.gradient_bytes},
                               {"weight_bytes", step.weight_bytes},
                               {"wire", enum_name(plan.wire)}})},
       {"tokens_per_second", plan.tokens_per_s},
       {"tokens", plan.tokens},
       {"epochs", optional_value(plan.epochs)},
       {"training_seconds", plan.training_s},
       {"evaluations", plan.evaluations},
       {"evaluation_seconds", optional_value(plan.evaluation_s)},
       {"checkpoint_bytes", plan.checkpoint_bytes},
       {"checkpoints_at_once", plan.checkpoints_kept},
       {"schedule", plan.schedule}});
}

}  // namespace qat
