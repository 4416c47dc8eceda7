#include "src/train/layer_times.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace qat {

void LayerTimes::begin(const char* name) noexcept {
  const std::string prefix = open_.empty() ? "" : parts_[open_.back()]->name + ".";
  if (!open_.empty()) parts_[open_.back()]->leaf = false;
  if (used_ == parts_.size()) parts_.push_back(std::make_unique<Part>(device_));
  Part& part = *parts_[used_];
  part.name = prefix + name, part.leaf = true;
  open_.push_back(used_++);
  part.timer.start();
}

void LayerTimes::end() noexcept {
  if (open_.empty()) return;  // begun before this listened
  parts_[open_.back()]->timer.stop();
  open_.pop_back();
}

void LayerTimes::take_pass() {
  for (std::size_t i = 0; i < used_; ++i) {
    const Part& part = *parts_[i];
    if (!part.leaf) continue;
    auto layer = std::find_if(layers_.begin(), layers_.end(), [&](const Layer& one) { return one.name == part.name; });
    if (layer == layers_.end()) layer = layers_.insert(layer, {.name = part.name, .times_ms = {}});
    layer->times_ms.resize(passes_ + 1, 0.0);
    layer->times_ms.back() += 1e3 * part.timer.seconds();
  }
  used_ = 0;
  ++passes_;
}

std::vector<LayerSpeed> LayerTimes::figures() const {
  std::vector<LayerSpeed> figures;
  for (const Layer& layer : layers_) {
    const auto count = static_cast<double>(passes_);
    const double mean = std::accumulate(layer.times_ms.begin(), layer.times_ms.end(), 0.0) / count;
    double squares = 0.0;
    for (const double time : layer.times_ms) squares += (time - mean) * (time - mean);
    squares += mean * mean * (count - static_cast<double>(layer.times_ms.size()));  // passes without it
    figures.push_back({.layer = layer.name, .mean_ms = mean, .deviation_ms = std::sqrt(squares / count)});
  }
  return figures;
}

}  // namespace qat
