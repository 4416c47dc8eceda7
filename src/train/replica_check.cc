#include "src/train/replica_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "dist/comm/agree.h"

namespace qat {

namespace {

// Ranks of one stage that do not hold what most of its ranks do; all of them if there is no majority.
std::vector<int> ranks_apart(const dist::Grid& grid, int stage, const std::vector<std::int64_t>& checksums,
                             bool& majority) {
  std::map<std::int64_t, std::vector<int>> ranks_of;
  for (int replica = 0; replica < grid.data_size(); ++replica) {
    const int rank = grid.rank_of(replica, stage);
    ranks_of[checksums[static_cast<std::size_t>(rank)]].push_back(rank);
  }
  if (ranks_of.size() == 1) return {};
  const auto most = std::max_element(ranks_of.begin(), ranks_of.end(),
                                     [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  majority = 2 * static_cast<int>(most->second.size()) > grid.data_size();
  std::vector<int> apart;
  for (const auto& [checksum, ranks] : ranks_of)
    if (!majority || checksum != most->first) apart.insert(apart.end(), ranks.begin(), ranks.end());
  std::sort(apart.begin(), apart.end());
  return apart;
}

}  // namespace

void check_replicas(const Gpt2& model, const dist::Grid& grid) {
  if (grid.data_size() == 1) return;
  model.parameters().gather_whole(grid.data());
  const std::vector<std::int64_t> mine = {model.parameters().checksum()};
  std::vector<std::int64_t> all(static_cast<std::size_t>(grid.world().size()));
  grid.world().all_gather(view(mine), view(std::span(all)));
  for (int stage = 0; stage < grid.stages(); ++stage) {
    bool majority = false;
    const std::vector<int> apart = ranks_apart(grid, stage, all, majority);
    if (apart.empty()) continue;
    throw dist::AgreedError(
        ErrorKind::kSelfCheck,
        fmt::format("the parameters are not the same on all ranks{}: {} {}. A memory error or a faulty device is "
                    "likely: check the hardware there, and go on from the last checkpoint",
                    grid.stages() == 1 ? "" : fmt::format(" of stage {}", stage), dist::name_ranks(apart),
                    majority ? fmt::format("hold{} others than the rest", apart.size() == 1 ? "s" : "") : "disagree"));
  }
}

}  // namespace qat
