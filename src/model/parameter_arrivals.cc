// Values that are on their way: where they are sent, and who waits for them.
#include <algorithm>
#include <iterator>

#include "src/model/parameter_store.h"
#include "src/quant/torch_view.h"

namespace qat {

void ParameterStore::send_beside(std::optional<StreamRef> stream) {
  await_all();
  beside_ = stream;
  on_its_way_.assign(infos_.size(), 0);
}

kernels::Exec ParameterStore::begin_sending(const FlatGroup& group) const {
  kernels::Exec exec = exec_for(group.values);
  if (!beside_) return exec;
  // Owners have their newest values, and nobody reads others' old ones any more.
  DeviceEvent ready(exec.device);
  ready.record(exec.stream);
  exec.stream = *beside_;
  ready.hold(exec.stream);
  return exec;
}

void ParameterStore::expect(const FlatGroup& group, std::span<const int> buckets) const {
  if (!beside_ || buckets.empty()) return;
  Arrival arrival{.ids = {}, .arrived = DeviceEvent(exec_for(group.values).device)};
  for (const int b : buckets) {
    const dist::FlatLayout::Bucket& bucket = group.layout.buckets()[static_cast<std::size_t>(b)];
    const auto first = group.ids.begin() + bucket.first_tensor;
    arrival.ids.insert(arrival.ids.end(), first, first + bucket.tensors);
  }
  arrival.arrived.record(*beside_);
  for (const int id : arrival.ids) ++on_its_way_[static_cast<std::size_t>(id)];
  arrivals_.push_back(std::move(arrival));
}

void ParameterStore::await(int id) const {
  // What was sent before it has arrived with it.
  const auto last = std::find_if(arrivals_.rbegin(), arrivals_.rend(), [&](const Arrival& arrival) {
                      return std::find(arrival.ids.begin(), arrival.ids.end(), id) != arrival.ids.end();
                    }).base();
  const auto wait = [&] { std::prev(last)->arrived.hold(exec_for(frozen_).stream); };
  around_wait_ ? around_wait_(wait) : wait();
  for (auto arrival = arrivals_.begin(); arrival != last; ++arrival)
    for (const int with : arrival->ids) --on_its_way_[static_cast<std::size_t>(with)];
  arrivals_.erase(arrivals_.begin(), last);
}

void ParameterStore::await_all() const {
  if (!arrivals_.empty()) await(arrivals_.back().ids.front());
}

}  // namespace qat
