#include "dist/watch/verdict.h"

#include <algorithm>
#include <utility>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

constexpr int kLostRank = static_cast<int>(ErrorKind::kCommunication);
constexpr int kHangs = static_cast<int>(ErrorKind::kWatchdog);

bool waits(const RankState& rank) { return rank.waits_for != WaitFor::kNothing; }

// Of ranks that are up and that `wanted` picks, the first in the order `before`; -1: none.
template <typename Wanted, typename Before>
int first_of(std::span<const RankState> ranks, const Wanted& wanted, const Before& before) {
  int best = -1;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i].link != Link::kUp || !wanted(ranks[i])) continue;
    if (best < 0 || before(ranks[i], ranks[static_cast<std::size_t>(best)])) best = static_cast<int>(i);
  }
  return best;
}

Verdict silent(std::span<const RankState> ranks, int rank) {
  return {.fault = Fault::kSilent,
          .rank = rank,
          .seconds = ranks[static_cast<std::size_t>(rank)].silent,
          .exit_code = kHangs};
}

}  // namespace

double limit_of(const LimitRule& rule, std::span<const RankState> ranks, Section section) {
  SectionHistory all;
  bool first = true;
  for (const RankState& rank : ranks) {
    if (rank.link != Link::kUp) continue;
    all = first ? rank.history : joined(all, rank.history);
    first = false;
  }
  return limit_of(rule, all, section);
}

std::optional<Verdict> judge(std::span<const RankState> ranks, const LimitRule& rule) {
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (ranks[i].link == Link::kGone)
      return Verdict{.fault = Fault::kDied, .rank = static_cast<int>(i), .exit_code = kLostRank};

  std::array<double, kSections> limits{};
  for (int i = 0; i < kSections; ++i)
    limits[static_cast<std::size_t>(i)] = limit_of(rule, ranks, static_cast<Section>(i));
  const auto limit = [&](const RankState& rank) { return limits[static_cast<std::size_t>(rank.section)]; };
  const auto longest_silent = [](const RankState& a, const RankState& b) { return a.silent > b.silent; };

  const int mute = first_of(
      ranks, [&](const RankState& r) { return r.silent > limit(r); }, longest_silent);
  if (mute >= 0) return silent(ranks, mute);

  const auto stands = [&](const RankState& r) { return r.stalled > limit(r); };
  const bool stuck = first_of(
                         ranks, [&](const RankState& r) { return stands(r) && !waits(r); }, longest_silent) >= 0;
  const bool hang = first_of(
                        ranks, [](const RankState&) { return true; }, longest_silent) >= 0 &&
                    first_of(
                        ranks, [&](const RankState& r) { return !stands(r) || !waits(r); }, longest_silent) < 0;
  if (!stuck && !hang) return std::nullopt;

  // One that has been mute for half its limit is why the others stand, whatever they seem to do: a rank that waits for
  // a device does not say so everywhere.
  const int half_mute = first_of(
      ranks, [&](const RankState& r) { return r.silent > limit(r) / 2; }, longest_silent);
  if (half_mute >= 0) return silent(ranks, half_mute);

  if (stuck) {
    // Of several that stand, the one that is furthest behind.
    const int last = first_of(
        ranks, [&](const RankState& r) { return r.stalled > limit(r) / 2 && !waits(r); },
        [](const RankState& a, const RankState& b) {
          return std::pair(a.steps, -a.stalled) < std::pair(b.steps, -b.stalled);
        });
    return Verdict{.fault = Fault::kStuck,
                   .rank = last,
                   .seconds = ranks[static_cast<std::size_t>(last)].stalled,
                   .exit_code = kHangs};
  }
  const int any = first_of(
      ranks, [](const RankState&) { return true; },
      [](const RankState& a, const RankState& b) {
        return std::pair(a.steps, -a.stalled) < std::pair(b.steps, -b.stalled);
      });
  return Verdict{
      .fault = Fault::kHang, .rank = any, .seconds = ranks[static_cast<std::size_t>(any)].stalled, .exit_code = kHangs};
}

std::string to_text(const Verdict& verdict, std::span<const RankState> ranks) {
  const std::string who = "rank " + std::to_string(verdict.rank);
  switch (verdict.fault) {
    case Fault::kDied:
      return who + " is gone: its process has ended without a word (killed, or crashed)";
    case Fault::kSilent:
      return who + " gives no sign of life: its process is stopped, or its host or the network to it is down";
    case Fault::kStuck:
      return who + (ranks.size() == 1 ? " makes no progress" : " makes no progress, and the others wait for it");
    case Fault::kHang:
      return "the ranks wait for each other without end: " + activities(ranks, /*except=*/-1);
    case Fault::kFailed:
      return verdict.message;
  }
  return who;
}

std::string activity(const RankState& rank) {
  std::string text = name_of(rank.section);
  if (rank.waits_for == WaitFor::kDevice) return text + ", waits for the GPU";
  if (waits(rank)) text += std::string(", in ") + name_of(rank.waits_for);
  return text;
}

std::string activities(std::span<const RankState> ranks, int except) {
  std::vector<std::pair<std::string, std::vector<int>>> groups;  // in order of their lowest ranks
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (static_cast<int>(i) == except) continue;
    const RankState& rank = ranks[i];
    const std::string doing = rank.link == Link::kUp     ? activity(rank)
                              : rank.link == Link::kLeft ? "has finished"
                              : rank.link == Link::kGone ? "is gone"
                                                         : "not known (no connection to its watchdog)";
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == doing; });
    if (same == groups.end())
      groups.push_back({doing, {static_cast<int>(i)}});
    else
      same->second.push_back(static_cast<int>(i));
  }
  std::string text;
  for (const auto& [doing, who] : groups) text += (text.empty() ? "" : "; ") + name_ranks(who) + ": " + doing;
  return text;
}

}  // namespace qat::dist
