#include "src/report/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr double kRedrawSeconds = 0.1;  // faster than anybody reads
constexpr double kLineSeconds = 10.0;
constexpr std::int64_t kLinesARun = 50;  // every 2 %

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Progress::Progress(std::ostream& out, ProgressOptions options) : out_(out), options_(std::move(options)) {
  if (!options_.clock) options_.clock = steady_seconds;
  start_ = options_.clock();
  last_shown_ = start_;
}

std::string Progress::describe(const ProgressState& state, double now) const {
  const std::int64_t done_here = state.steps_done - start_step_;
  const std::int64_t left = std::max<std::int64_t>(options_.total_steps - state.steps_done, 0);
  // The mean over everything since then: steps of one precision cycle need not take the same time.
  const double eta = done_here > 0 ? (now - start_) / static_cast<double>(done_here) * static_cast<double>(left) : -1.0;
  std::string line = fmt::format("step {}/{}", state.steps_done, options_.total_steps);
  if (state.cycle)
    line +=
        fmt::format("  cycle {}/{} {:3.0f} %", state.cycle->number + 1, state.cycle->of, 100.0 * state.cycle->share);
  line +=
      fmt::format("  {}  loss {}  {} tokens/s", state.precision, fixed(state.loss, 4), short_count(state.tokens_per_s));
  if (state.peak_share) line += fmt::format("  {:.0f} % of peak", 100.0 * *state.peak_share);
  return line + "  ETA " + duration(eta);
}

void Progress::begin(std::int64_t steps_done) {
  start_ = options_.clock();
  start_step_ = steps_done;
  first_update_ = true;
}

void Progress::update(const ProgressState& state) {
  const double now = options_.clock();
  show(state, now);
  if (first_update_) start_ = now, start_step_ = state.steps_done, first_update_ = false;
}

void Progress::show(const ProgressState& state, double now) {
  const bool first = last_shown_step_ < 0;
  const bool last = state.steps_done >= options_.total_steps;
  const double waited = now - last_shown_;
  if (options_.terminal) {
    if (!first && !last && waited < kRedrawSeconds) return;
    draw(describe(state, now));
  } else {
    const std::int64_t interval = std::max<std::int64_t>(options_.total_steps / kLinesARun, 1);
    if (!first && !last && waited < kLineSeconds && state.steps_done - last_shown_step_ < interval) return;
    out_ << describe(state, now) << '\n' << std::flush;
  }
  last_shown_ = now;
  last_shown_step_ = state.steps_done;
}

// \r returns to the first column, ESC [ K clears to the end of the line.
void Progress::draw(const std::string& line) {
  out_ << '\r' << line << "\x1b[K" << std::flush;
  on_screen_ = line;
}

void Progress::message(std::string_view line) {
  if (on_screen_.empty()) {
    out_ << line << '\n' << std::flush;
    return;
  }
  out_ << '\r' << line << "\x1b[K\n";
  draw(on_screen_);
}

void Progress::finish() {
  if (on_screen_.empty()) return;
  out_ << '\n' << std::flush;
  on_screen_.clear();
}

}  // namespace qat
