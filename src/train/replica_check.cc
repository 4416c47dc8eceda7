#include "src/train/replica_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "dist/comm/agree.h"

namespace qat {

void check_replicas(const Gpt2& model, dist::Communicator& comm) {
  if (comm.size() == 1) return;
  const std::vector<std::int64_t> mine = {model.parameters().checksum()};
  std::vector<std::int64_t> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(view(mine), view(std::span(all)));
  std::map<std::int64_t, std::vector<int>> ranks_of;
  for (int rank = 0; rank < comm.size(); ++rank) ranks_of[all[static_cast<std::size_t>(rank)]].push_back(rank);
  if (ranks_of.size() == 1) return;
  const auto most = std::max_element(ranks_of.begin(), ranks_of.end(),
                                     [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  const bool majority = 2 * static_cast<int>(most->second.size()) > comm.size();
  std::vector<int> apart;
  for (int rank = 0; rank < comm.size(); ++rank)
    if (!majority || all[static_cast<std::size_t>(rank)] != most->first) apart.push_back(rank);
  throw dist::AgreedError(
      ErrorKind::kSelfCheck,
      fmt::format("the parameters are not the same on all ranks: {} {}. A memory error or a faulty device is likely: "
                  "check the hardware there, and go on from the last checkpoint",
                  dist::name_ranks(apart),
                  majority ? fmt::format("hold{} others than the rest", apart.size() == 1 ? "s" : "") : "disagree"));
}

}  // namespace qat
