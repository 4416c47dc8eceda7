// From what is known of every rank to what is wrong, and with whom. Values only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/watch/limits.h"

namespace qat::dist {

// A rank's connection to the watchdog.
enum class Link : std::uint8_t { kNever, kUp, kGone, kLeft };  // kGone: without farewell; kLeft: with it

// A rank as the watchdog knows it.
struct RankState {
  Link link = Link::kNever;
  Section section = Section::kSetUp;
  WaitFor waits_for = WaitFor::kNothing;
  std::int64_t steps = 0;  // completed
  std::uint64_t beats = 0;
  double stalled = 0.0;  // seconds without a beat
  double silent = 0.0;   // seconds without a word from the rank's own watchdog
  SectionHistory history;
};

enum class Fault : std::uint8_t {
  kDied,    // its connection is gone: the process has ended without a word
  kSilent,  // connected, but not even its watchdog speaks: stopped, or its host or network is down
  kStuck,   // lives, works on something of its own, and gets nowhere
  kHang,    // all wait, each for the others
  kFailed   // has said itself what went wrong
};

struct Verdict {
  Fault fault = Fault::kStuck;
  int rank = 0;          // whom it concerns; kHang: one of them
  double seconds = 0.0;  // for how long; 0 where that says nothing
  int exit_code = 7;
  std::string message;  // kFailed: in its own words
};

// The limit of each section over all ranks that are up.
double limit_of(const LimitRule& rule, std::span<const RankState> ranks, Section section);

// Nothing, if all is well so far. A rank that died is found at once; silence and standstill beyond the limit of the
// rank's section. Ranks that wait for others are never to blame, unless all of them do.
std::optional<Verdict> judge(std::span<const RankState> ranks, const LimitRule& rule);

// The verdict as a sentence: "rank 2 gives no sign of life: ...".
std::string to_text(const Verdict& verdict, std::span<const RankState> ranks);

// "step, in all_gather", "save".
std::string activity(const RankState& rank);
// "ranks 0-1, 3: step, in all_reduce; rank 4: save", every rank but `except`.
std::string activities(std::span<const RankState> ranks, int except);

}  // namespace qat::dist
