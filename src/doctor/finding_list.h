// Findings as they are made, and what their makers ask of the ranks' facts.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/doctor/findings.h"

namespace qat {

class FindingList {
 public:
  using Rule = std::function<bool(const RankFacts&)>;

  // facts: of every rank, in their order.
  explicit FindingList(std::span<const RankFacts> facts) : facts_(facts) {}

  void ok(std::string topic, std::string text) { add(FindingLevel::kOk, std::move(topic), std::move(text), {}); }
  void warn(std::string topic, std::string text, std::string fix) {
    add(FindingLevel::kWarning, std::move(topic), std::move(text), std::move(fix));
  }
  void fault(std::string topic, std::string text, std::string fix) {
    add(FindingLevel::kFault, std::move(topic), std::move(text), std::move(fix));
  }
  std::vector<MachineFinding> take() { return std::move(findings_); }

  std::span<const RankFacts> facts() const { return facts_; }
  const RankFacts& root() const { return facts_.front(); }
  std::vector<const RankFacts*> hosts() const;  // the first rank of each

  std::vector<std::int64_t> where(const Rule& rule) const;  // ranks
  const RankFacts& first(const std::vector<std::int64_t>& ranks) const;
  std::string named(const std::vector<std::int64_t>& ranks) const;     // "rank 3", "ranks 0-3, 5", "all ranks"
  std::string on_hosts(const std::vector<std::int64_t>& ranks) const;  // "on q1, q2 (ranks 0-1)"

  bool on_gpus() const { return root().gpu_memory > 0; }
  // Ranks of such a host take turns, with each other or with something else: what they measured says little.
  static bool is_crowded(const RankFacts& rank) { return has_load(rank) || rank.local_size > rank.cores; }
  static bool has_load(const RankFacts& rank) { return rank.load > 1.5 * static_cast<double>(rank.cores); }

 private:
  void add(FindingLevel level, std::string topic, std::string text, std::string fix) {
    findings_.push_back({level, std::move(topic), std::move(text), std::move(fix)});
  }

  std::span<const RankFacts> facts_;
  std::vector<MachineFinding> findings_;
};

// The parts of judge(): see there.
void judge_versions(FindingList& list);
void judge_speed(FindingList& list);
void judge_links(FindingList& list, const LinkFacts& links);

}  // namespace qat
