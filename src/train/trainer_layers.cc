// What the layers do, at the steps that report.layers_every and report.histograms_every name.
#include <algorithm>

#include "dist/comm/agree.h"
#include "src/train/layer_figures.h"
#include "src/train/trainer.h"

namespace qat {
namespace {

bool is_due(std::int64_t every, const dist::StepPlan& plan) {
  return every > 0 && static_cast<std::int64_t>(plan.step) % every == 0;
}

}  // namespace

void Trainer::look_at_layers(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps) {
  const bool layers = is_due(options_.report.layers_every, plan);
  const bool histograms = options_.report.tensorboard && is_due(options_.report.histograms_every, plan);
  if (!layers && !histograms) return;
  // Weights may be those that the next pass reads, and what its width has for itself may have come in place of what
  // this one has.
  const Gpt2& model = parts_.model;
  const PrecisionMap& precision = maps[plan.updates.back().passes.front().map];
  model.parameters().gather(model.groups_used(precision), parts_.grid.data());
  if (layers) record_layers(plan, maps);
  if (histograms) record_histograms(plan, maps);
}

// The last update's first pass.
void Trainer::record_layers(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps) {
  const dist::UpdatePlan& update = plan.updates.back();
  LayerRecord line{
      .step = static_cast<std::int64_t>(plan.step),
      .precision = update.passes.size() == 1 ? precision_name(dist::widths_of(plan, update), maps_) : "all",
      .layers = {}};
  if (parts_.grid.data_rank() == 0) {
    const PrecisionMap& precision = maps[update.passes.front().map];
    line.layers = layer_figures(parts_.model, precision, runner_.gradient_norms());
  }
  if (parts_.grid.stages() > 1) {
    const std::vector<std::string> stages = dist::gather_strings(parts_.grid.pipeline(), to_json(to_value(line)));
    line.layers.clear();
    for (const std::string& text : stages)
      for (LayerFigures& layer : layer_record_of(parse_json(text, "a stage's layers")).layers)
        line.layers.push_back(std::move(layer));
    // In order of use, also where stages have several chunks.
    const std::vector<std::string>& names = parts_.model.linear_names();
    std::sort(line.layers.begin(), line.layers.end(), [&](const LayerFigures& a, const LayerFigures& b) {
      return std::find(names.begin(), names.end(), a.name) < std::find(names.begin(), names.end(), b.name);
    });
  }
  if (is_root())
    record([&] {
      layers_->append(to_value(line));
      if (events_) events_->write(line.step, layer_summary(line));
    });
}

void Trainer::record_histograms(const dist::StepPlan& plan, const std::vector<PrecisionMap>& maps) {
  EventSummary summary;
  if (parts_.grid.data_rank() == 0)
    summary.histograms = layer_histograms(parts_.model, maps[plan.updates.back().passes.front().map]);
  const auto step = static_cast<std::int64_t>(plan.step);
  const std::string mine = EventFiles::event_of(step, summary);
  std::vector<std::string> stages = {mine};
  if (parts_.grid.stages() > 1) stages = dist::gather_strings(parts_.grid.pipeline(), mine);
  if (is_root())
    record([&] {
      for (const std::string& event : stages) events_->write_event(event);
    });
}

}  // namespace qat
