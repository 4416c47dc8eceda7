#include "dist/watch/progress_board.h"

namespace qat::dist {

const char* name_of(Section section) {
  static constexpr std::array<const char*, kSections> kNames = {"set-up", "step",   "calibration", "evaluation",
                                                                "save",   "report", "shut-down"};
  return kNames.at(static_cast<std::size_t>(section));
}

const char* name_of(WaitFor wait) {
  static constexpr std::array<const char*, kWaits> kNames = {"",          "all_reduce", "reduce_scatter", "all_gather",
                                                             "broadcast", "all_to_all", "send",           "receive",
                                                             "exchange",  "barrier",    "split",          "the GPU"};
  return kNames.at(static_cast<std::size_t>(wait));
}

void ProgressBoard::leave(Section section, Section next) noexcept {
  completed_[static_cast<std::size_t>(section)].fetch_add(1, std::memory_order_relaxed);
  section_.store(next, std::memory_order_relaxed);
  beat();
}

void ProgressBoard::enter(Section section) noexcept { leave(section_.load(std::memory_order_relaxed), section); }

void ProgressBoard::set_checkpoint(const std::string& folder) {
  if (folder == checkpoints_.back()) return;
  checkpoints_.push_back(folder);
  checkpoint_.store(&checkpoints_.back(), std::memory_order_release);
}

BoardView ProgressBoard::read() const noexcept {
  BoardView view;
  view.section = section_.load(std::memory_order_relaxed);
  view.waits_for = waits_for_.load(std::memory_order_relaxed);
  view.beats = beats_.load(std::memory_order_relaxed);
  view.steps = steps_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < completed_.size(); ++i) view.completed[i] = completed_[i].load(std::memory_order_relaxed);
  return view;
}

SectionMark::SectionMark(ProgressBoard* board, Section section) noexcept
    : board_(board), section_(section), range_(name_of(section)) {
  if (board_ == nullptr) return;
  outer_ = board_->section_.exchange(section, std::memory_order_relaxed);
  board_->beat();
}

SectionMark::~SectionMark() {
  if (board_ != nullptr) board_->leave(section_, outer_);
}

}  // namespace qat::dist
