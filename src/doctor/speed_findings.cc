// How fast ranks and the links between them are, beside each other and beside what their kind is known to reach.
#include <fmt/format.h>

#include <algorithm>

#include "src/doctor/finding_list.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

// A GPU of a kind that was measured (src/cost/known_gpus.cc) and reaches less than this share of it is worth a look.
constexpr double kLeastShare = 0.75;
// Exchanges depend more on the machine than products do.
constexpr double kLeastLinkShare = 0.3;

// "1.02 GB/s", "39.6 Gop/s".
std::string rate(double value, const char* unit) {
  std::string text = short_count(value);
  const auto digits = text.find_last_of("0123456789") + 1;
  return text.substr(0, digits) + " " + text.substr(digits) + unit;
}

struct Speed {
  const char* what;
  double RankFacts::*measured;
  double RankFacts::*known;  // what the kind of GPU reaches; null: nothing is known
  const char* unit;
};

constexpr Speed kSpeeds[] = {
    {"products on int8 codes", &RankFacts::code_products, &RankFacts::known_code_products, "op/s"},
    {"products on values", &RankFacts::float_products, &RankFacts::known_float_products, "op/s"},
    {"copies", &RankFacts::copy_bytes, nullptr, "B/s"},
};

void judge_one_speed(FindingList& list, const Speed& speed) {
  const bool gpu = list.on_gpus();
  const char* const topic = gpu ? "GPU" : "cores";
  double sum = 0.0;
  std::int64_t measured = 0;
  for (const RankFacts& one : list.facts())
    if (one.*speed.measured > 0.0) sum += one.*speed.measured, ++measured;
  if (measured == 0) return;
  const double mean = sum / static_cast<double>(measured);
  const auto counts = [&](const RankFacts& f) {
    return f.*speed.measured > 0.0 && (gpu || !FindingList::is_crowded(f));
  };
  const auto slow = list.where([&](const RankFacts& f) { return counts(f) && f.*speed.measured < 0.9 * mean; });
  if (!slow.empty()) {
    const auto slower = [&](std::int64_t a, std::int64_t b) {
      return list.facts()[static_cast<std::size_t>(a)].*speed.measured <
             list.facts()[static_cast<std::size_t>(b)].*speed.measured;
    };
    const std::int64_t slowest = *std::min_element(slow.begin(), slow.end(), slower);
    const double least = list.facts()[static_cast<std::size_t>(slowest)].*speed.measured;
    list.warn(topic,
              fmt::format("{}: {} are up to {:.0f} % below the mean: {} beside {}", list.on_hosts(slow), speed.what,
                          100.0 * (1.0 - least / mean), rate(least, speed.unit), rate(mean, speed.unit)),
              gpu ? "nvidia-smi -q -d CLOCK,PERFORMANCE says what holds it back (power, heat); leave the GPU out"
                  : "look with top for what else runs there: every rank waits for the slowest");
    return;
  }
  std::string text = fmt::format("{}: {} a rank", speed.what, rate(mean, speed.unit));
  if (!gpu && list.where(counts).empty()) text += ", while it takes turns";
  const double known = speed.known == nullptr ? -1.0 : list.root().*speed.known;
  if (known > 0.0) text += fmt::format(", {:.0f} % of what this GPU is known to reach", 100.0 * mean / known);
  if (known > 0.0 && mean < kLeastShare * known)
    list.warn(topic, text, "nvidia-smi -q -d CLOCK,PERFORMANCE says what holds it back; does something else use it?");
  else
    list.ok(topic, text);
}

// The pairs of neighbours of one kind.
void judge_neighbours(FindingList& list, const std::vector<LinkFacts::Neighbours>& pairs, const char* where) {
  std::vector<double> rates, delays;
  for (const auto& pair : pairs) rates.push_back(pair.bytes), delays.push_back(pair.latency_s);
  std::nth_element(rates.begin(), rates.begin() + std::ssize(rates) / 2, rates.end());
  const double median = rates[rates.size() / 2], delay = *std::max_element(delays.begin(), delays.end());
  const auto crowded = [&](std::int64_t rank) {
    const auto at = static_cast<std::size_t>(rank);
    return !list.on_gpus() && at < list.facts().size() && FindingList::is_crowded(list.facts()[at]);
  };
  const bool turns =
      std::any_of(pairs.begin(), pairs.end(), [&](const auto& pair) { return crowded(pair.from) || crowded(pair.to); });
  list.ok("links", fmt::format("point to point {}: {}, a message of 8 bytes {:.1f} us at most{}", where,
                               rate(median, "B/s"), delay * 1e6, turns ? ", while ranks take turns" : ""));
  for (const auto& pair : pairs)
    if (pair.bytes < 0.5 * median && !crowded(pair.from) && !crowded(pair.to))
      list.warn(
          "links",
          fmt::format("rank {} to {}: {}, less than half of the others'", pair.from, pair.to, rate(pair.bytes, "B/s")),
          !pair.same_host  ? "ethtool, ibstat there: a link that has fallen back is the usual reason"
          : list.on_gpus() ? "nvidia-smi topo -m there: two GPUs without NVLink between them are the usual reason"
                           : "lstopo, top there: ranks on different sockets, or something else that runs");
}

}  // namespace

void judge_speed(FindingList& list) {
  for (const Speed& speed : kSpeeds) judge_one_speed(list, speed);
}

void judge_links(FindingList& list, const LinkFacts& links) {
  if (list.facts().size() == 1) {
    list.ok("links", "not measured: one rank. `mpirun -np N build/qat_dist doctor` measures those between N ranks");
    return;
  }
  if (links.node_bytes > 0.0) {
    std::string text =
        fmt::format("exchange of gradients in a node ({}): {} a rank", links.backend, rate(links.node_bytes, "B/s"));
    if (links.known_node_bytes > 0.0)
      text += fmt::format(", {:.0f} % of what GPUs of this kind are known to reach",
                          100.0 * links.node_bytes / links.known_node_bytes);
    if (links.known_node_bytes > 0.0 && links.node_bytes < kLeastLinkShare * links.known_node_bytes)
      list.warn("links", text,
                "nvidia-smi topo -m: is there NVLink between the GPUs? NCCL_DEBUG=INFO says what NCCL takes");
    else
      list.ok("links", text);
  }
  if (links.network_bytes > 0.0)
    list.ok("links", fmt::format("exchange of gradients between nodes ({}): {} a rank", links.backend,
                                 rate(links.network_bytes, "B/s")));
  for (const bool same : {true, false}) {
    std::vector<LinkFacts::Neighbours> kind;
    std::copy_if(links.ring.begin(), links.ring.end(), std::back_inserter(kind),
                 [&](const LinkFacts::Neighbours& pair) { return pair.same_host == same; });
    if (!kind.empty()) judge_neighbours(list, kind, same ? "in a node" : "between nodes");
  }
}

}  // namespace qat
