#include "src/doctor/finding_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "dist/comm/agree.h"

namespace qat {

std::vector<const RankFacts*> FindingList::hosts() const {
  std::vector<const RankFacts*> firsts;
  for (const RankFacts& one : facts_)
    if (one.local_rank == 0) firsts.push_back(&one);
  return firsts;
}

std::vector<std::int64_t> FindingList::where(const Rule& rule) const {
  std::vector<std::int64_t> ranks;
  for (const RankFacts& one : facts_)
    if (rule(one)) ranks.push_back(one.rank);
  return ranks;
}

const RankFacts& FindingList::first(const std::vector<std::int64_t>& ranks) const {
  return facts_[static_cast<std::size_t>(ranks.front())];
}

std::string FindingList::named(const std::vector<std::int64_t>& ranks) const {
  if (ranks.size() == facts_.size()) return ranks.size() == 1 ? "this rank" : "all ranks";
  return dist::name_ranks({ranks.begin(), ranks.end()});
}

std::string FindingList::on_hosts(const std::vector<std::int64_t>& ranks) const {
  std::vector<std::string> hosts;
  for (const std::int64_t rank : ranks) {
    const std::string& host = facts_[static_cast<std::size_t>(rank)].host;
    if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) hosts.push_back(host);
  }
  return fmt::format("on {} ({})", fmt::join(hosts, ", "), named(ranks));
}

}  // namespace qat
