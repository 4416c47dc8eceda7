// For tests of the watchdog: what watchdogs did to end a run, and ranks that are made by hand.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dist/watch/directory.h"
#include "dist/watch/watchdog.h"

namespace qat::dist::test {

inline void rest(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

inline bool until(const std::function<bool()>& condition, double seconds = 20.0) {
  for (double waited = 0.0; waited < seconds; waited += 0.005) {
    if (condition()) return true;
    rest(0.005);
  }
  return false;
}

// What the watchdogs of a test did to end the run.
class Ends {
 public:
  WatchdogOptions options(int rank, double limit) {
    WatchdogOptions options{.limit_seconds = limit, .host = "host" + std::to_string(rank)};
    options.on_end = [this, rank](const EndReport& report) {
      const std::lock_guard lock(mutex_);
      reports_.emplace_back(rank, report);
    };
    options.terminate = [this, rank](int code) {
      const std::lock_guard lock(mutex_);
      codes_[rank] = code;
    };
    return options;
  }
  std::map<int, int> codes() {
    const std::lock_guard lock(mutex_);
    return codes_;
  }
  // Who spoke, and what.
  std::vector<std::pair<int, EndReport>> reports() {
    const std::lock_guard lock(mutex_);
    return reports_;
  }
  bool wait_for(std::size_t ranks) {
    return until([&] { return codes().size() == ranks; });
  }

 private:
  std::mutex mutex_;
  std::map<int, int> codes_;
  std::vector<std::pair<int, EndReport>> reports_;
};

// A rank's side of a connection, made by hand.
class HandMadeRank {
 public:
  HandMadeRank(const Directory& directory, const std::string& token) {
    Socket socket = begin_connect("127.0.0.1", directory.of(0).port);
    pollfd poll_one{.fd = socket.get(), .events = POLLOUT, .revents = 0};
    ::poll(&poll_one, 1, 5000);
    EXPECT_EQ(connect_result(socket), 0);
    connection_ = std::make_unique<Connection>(std::move(socket));
    connection_->send(FrameType::kHello, Packer().text(token).word(static_cast<std::uint64_t>(directory.rank)).take());
  }
  void beat(const RankState& state = {}) { connection_->send(FrameType::kBeat, pack(state)); }
  void send(FrameType type) { connection_->send(type); }
  // Waits for a frame of that type; false: the connection ended before.
  bool receives(FrameType type) {
    bool open = true;
    return until([&] {
             open = connection_->receive();
             while (const auto frame = connection_->next())
               if (frame->type == type) return true;
             return !open;
           }) &&
           open;
  }
  void vanish() { connection_.reset(); }

 private:
  std::unique_ptr<Connection> connection_;
};

}  // namespace qat::dist::test
