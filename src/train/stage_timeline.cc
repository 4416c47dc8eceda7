#include "src/train/stage_timeline.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "dist/comm/agree.h"

namespace qat {

StageTimeline::StageTimeline(c10::Device device, int rank) : device_(device), rank_(rank), zero_(mark()) {}

StageTimeline::Mark StageTimeline::mark() const {
  Mark now{.host = Clock::now(), .device = std::nullopt};
  if (device_.is_cuda()) {
    now.device.emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);  // PYTORCH_DEFAULT's keep no time
    now.device->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
  return now;
}

void StageTimeline::begin() { entries_.push_back({.actions = {}, .begin = mark(), .end = {}}); }

void StageTimeline::end(std::span<const dist::PipelineAction> actions) {
  entries_.back().actions.assign(actions.begin(), actions.end());
  entries_.back().end = mark();
}

double StageTimeline::microseconds(const Mark& at) const {
  if (at.device) return zero_.device->elapsedTime(*at.device) * 1e3;
  return std::chrono::duration<double, std::micro>(at.host - zero_.host).count();
}

dist::Timeline StageTimeline::spans() const {
  if (!entries_.empty() && entries_.back().end.device) entries_.back().end.device->synchronize();
  dist::Timeline spans;
  for (const Entry& entry : entries_)
    for (const dist::PipelineAction& action : entry.actions)
      spans.push_back(
          {.rank = rank_, .action = action, .begin_us = microseconds(entry.begin), .end_us = microseconds(entry.end)});
  return spans;
}

dist::Timeline gather_timeline(const StageTimeline& mine, dist::Communicator& world) {
  using Span = dist::TimelineSpan;
  static_assert(std::is_trivially_copyable_v<Span>);
  const dist::Timeline own = mine.spans();
  dist::Timeline all;
  for (const std::string& bytes :
       dist::gather_strings(world, std::string(reinterpret_cast<const char*>(own.data()), own.size() * sizeof(Span)))) {
    const std::size_t before = all.size();
    all.resize(before + bytes.size() / sizeof(Span));
    if (!bytes.empty()) std::memcpy(all.data() + before, bytes.data(), bytes.size());
  }
  return all;
}

}  // namespace qat
