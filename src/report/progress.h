// How far a run is: one line that changes in place on a terminal, plain lines elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>

namespace qat {

struct ProgressOptions {
  bool terminal = false;         // the stream is a terminal (isatty)
  std::int64_t total_steps = 0;  // of the whole run
  // Seconds of a clock that never goes back; empty: the system's.
  std::function<double()> clock;
};

struct ProgressState {
  // Where in its cycles the precision is, from 0.
  struct Cycle {
    std::int64_t number = 0, of = 0;
    double share = 0.0;  // of this one
  };
  std::int64_t steps_done = 0;
  double loss = 0.0;
  std::string precision = "32 bits";  // or "stripe8&4"
  std::optional<Cycle> cycle;
  double tokens_per_s = 0.0;
  std::optional<double> peak_share;  // of the products that the devices could do in that time
};

// Rank 0 only. On a terminal the line is redrawn at most ten times a second; elsewhere a line is written for the first
// and the last step, and when 2 % of the steps or 10 seconds have gone by since the last one.
class Progress {
 public:
  Progress(std::ostream& out, ProgressOptions options);

  // Steps begin now, after so many that were done before this process began.
  void begin(std::int64_t steps_done);
  void update(const ProgressState& state);

  // A line of something else, above the progress line; what a Logger's console should be.
  void message(std::string_view line);

  // Ends the line on a terminal; call it before anything else is written to the stream.
  void finish();

 private:
  void show(const ProgressState& state, double now);
  std::string describe(const ProgressState& state, double now) const;
  void draw(const std::string& line);

  std::ostream& out_;
  ProgressOptions options_;
  // What the time left is reckoned from: the end of this process's first step, which takes longer than the rest
  // (kernels are chosen, memory is first touched), or its beginning until there is a second.
  double start_ = 0.0;
  std::int64_t start_step_ = 0;
  bool first_update_ = true;
  double last_shown_ = 0.0;
  std::int64_t last_shown_step_ = -1;
  std::string on_screen_;  // the unfinished line of a terminal
};

}  // namespace qat
