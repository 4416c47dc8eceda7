#include "dist/grad/grad_exchange.h"

#include <algorithm>
#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {

std::vector<BucketPlace> exchange_order(const std::vector<std::vector<std::int64_t>>& first_use) {
  std::vector<std::pair<std::int64_t, BucketPlace>> places;
  for (std::size_t s = 0; s < first_use.size(); ++s)
    for (std::size_t b = 0; b < first_use[s].size(); ++b)
      places.push_back({first_use[s][b], {.sync = static_cast<int>(s), .bucket = static_cast<int>(b)}});
  std::stable_sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<BucketPlace> order;
  for (const auto& [use, place] : places) order.push_back(place);
  return order;
}

GradExchange::GradExchange(std::span<GradSync> syncs, std::vector<BucketPlace> order, Device device, StreamRef compute,
                           StreamRef exchange, bool overlapped)
    : syncs_(syncs),
      order_(std::move(order)),
      device_(device),
      compute_(compute),
      exchange_(exchange),
      overlapped_(overlapped),
      made_(device),
      exchanged_(device) {
  std::size_t buckets = 0;
  for (GradSync& sync : syncs_) {
    buckets += sync.layout().buckets().size();
    sync.set_on_complete([this](int) {
      if (launching_) launch_ready();
    });
  }
  QAT_CHECK(buckets == order_.size(), "every bucket has its place in the order of exchange");
}

void GradExchange::begin_on_exchange() {
  if (!overlapped_) return;
  made_.record(compute_);
  made_.hold(exchange_);
}

void GradExchange::end_on_exchange() {
  if (!overlapped_) return;
  exchanged_.record(exchange_);
  exchanged_.hold(compute_);
}

void GradExchange::start() {
  next_ = 0;
  early_ = 0;
  launching_ = false;
}

void GradExchange::launch_ready() {
  for (; next_ < order_.size(); ++next_) {
    const BucketPlace& place = order_[next_];
    GradSync& sync = syncs_[static_cast<std::size_t>(place.sync)];
    if (sync.rests()) continue;
    if (!sync.is_complete(place.bucket)) return;
    begin_on_exchange();
    sync.reduce(place.bucket);
    ++early_;
  }
}

void GradExchange::finish(WireError* error) {
  launching_ = false;
  begin_on_exchange();
  for (; next_ < order_.size(); ++next_) {
    const BucketPlace& place = order_[next_];
    GradSync& sync = syncs_[static_cast<std::size_t>(place.sync)];
    if (!sync.rests()) sync.reduce(place.bucket, error);
  }
  end_on_exchange();
}

}  // namespace qat::dist
