// What this rank is doing: written by its working thread, read by its watchdog. Without locks; a mark costs a few
// nanoseconds, so that marks may stand in the inner loops.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <string>

#include "kernels/common/trace_range.h"

namespace qat::dist {

// Parts of a run that differ in how long they may go without a sign of progress.
enum class Section : std::uint8_t { kSetUp, kStep, kCalibration, kEvaluation, kSave, kReport, kShutDown };
constexpr int kSections = 7;
const char* name_of(Section section);  // "set-up", "step", ...

// What only other ranks, or the device, can bring to its end.
enum class WaitFor : std::uint8_t {
  kNothing,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kAllToAll,
  kSend,
  kReceive,
  kExchange,
  kBarrier,
  kSplit,
  kDevice
};
constexpr int kWaits = 12;
const char* name_of(WaitFor wait);  // "all_reduce", ..., "the GPU"; "" for nothing

// The board at one moment.
struct BoardView {
  Section section = Section::kSetUp;
  WaitFor waits_for = WaitFor::kNothing;
  std::uint64_t beats = 0;
  std::int64_t steps = 0;                               // completed, of the whole run
  std::array<std::uint64_t, kSections> completed = {};  // how often each section was left
};

class ProgressBoard {
 public:
  ProgressBoard() = default;
  ProgressBoard(const ProgressBoard&) = delete;
  ProgressBoard& operator=(const ProgressBoard&) = delete;

  // Something was done. Any thread.
  void beat() noexcept { beats_.fetch_add(1, std::memory_order_relaxed); }

  // The rest is the working thread's. Leaves the current section for the next.
  void enter(Section section) noexcept;
  void set_steps(std::int64_t completed) noexcept { steps_.store(completed, std::memory_order_relaxed); }
  // The newest complete checkpoint.
  void set_checkpoint(const std::string& folder);

  // Any thread.
  BoardView read() const noexcept;
  std::string checkpoint() const { return *checkpoint_.load(std::memory_order_acquire); }

 private:
  friend class SectionMark;
  friend class WaitMark;
  void leave(Section section, Section next) noexcept;

  std::atomic<Section> section_{Section::kSetUp};
  std::atomic<WaitFor> waits_for_{WaitFor::kNothing};
  std::atomic<std::uint64_t> beats_{0};
  std::atomic<std::int64_t> steps_{0};
  std::array<std::atomic<std::uint64_t>, kSections> completed_ = {};
  std::deque<std::string> checkpoints_{std::string()};  // all of them, so that a reader's never goes away
  std::atomic<const std::string*> checkpoint_{&checkpoints_.front()};
};

// A section inside another: the outer one goes on when this ends. Profilers see it as a range. board: may be null.
class SectionMark {
 public:
  SectionMark(ProgressBoard* board, Section section) noexcept;
  ~SectionMark();
  SectionMark(const SectionMark&) = delete;
  SectionMark& operator=(const SectionMark&) = delete;

 private:
  ProgressBoard* board_;
  Section section_;
  Section outer_ = Section::kSetUp;
  TraceRange range_;
};

// From birth to death of this mark the working thread waits. board: may be null.
class WaitMark {
 public:
  WaitMark(ProgressBoard* board, WaitFor wait) noexcept : board_(board) {
    if (board_ == nullptr) return;
    outer_ = board_->waits_for_.load(std::memory_order_relaxed);
    board_->waits_for_.store(wait, std::memory_order_relaxed);
    board_->beat();
  }
  ~WaitMark() {
    if (board_ == nullptr) return;
    board_->waits_for_.store(outer_, std::memory_order_relaxed);
    board_->beat();
  }
  WaitMark(const WaitMark&) = delete;
  WaitMark& operator=(const WaitMark&) = delete;

 private:
  ProgressBoard* board_;
  WaitFor outer_ = WaitFor::kNothing;
};

}  // namespace qat::dist
