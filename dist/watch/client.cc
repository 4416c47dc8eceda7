#include "dist/watch/client.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// Seconds. One way may lead nowhere (a firewall that drops packets), or to somebody else.
constexpr double kWayWithin = 2.0;
constexpr double kWelcomeWithin = 5.0;
constexpr double kPause = 0.2;
// The hub is lost: ranks below this one may be stopped as well; all of them together must not take long.
constexpr double kStandInWithin = 1.0;
constexpr double kSearchWithin = 4.0;
// A hub that has begun the end but does not bring it about.
constexpr double kEndWithin = 8.0;
constexpr double kResumedEndWithin = 1.0;
constexpr double kLeaveWithin = 1.0;

}  // namespace

Client::Client(WatchCore& core, Socket listener)
    : core_(core), listener_(std::move(listener)), hub_limit_(core.rule.ceiling) {
  deadline_ = steady_seconds() + core_.options.connect_seconds;
  if (core_.directory.of(0).port > 0) {
    dial(0);
  } else {
    be_alone("");  // rank 0 warns that it cannot listen
  }
}

// ---- dialing

void Client::hang_up() {
  connecting_ = Socket();
  connection_.reset();
  closed_ = welcome_ = false;
}

void Client::dial(int rank) {
  callee_ = rank;
  ways_ = core_.directory.ways_to(rank);
  way_ = 0;
  try_way();
}

// The next one; nothing, where none is left.
void Client::try_way() {
  hang_up();
  pause_until_ = steady_seconds() + kPause;
  if (way_ == ways_.size()) return;
  way_deadline_ = steady_seconds() + kWayWithin;
  connecting_ = begin_connect(ways_[way_++], core_.directory.of(callee_).port);
  if (!connecting_.valid()) last_error_ = errno;
}

void Client::serve_dialing() {
  if (!connecting_.valid()) return serve_connection();
  const int error = connect_result(connecting_);
  if (error != 0) {
    last_error_ = error;
    connecting_ = Socket();
    return;
  }
  connection_.emplace(std::move(connecting_));
  connecting_ = Socket();
  way_deadline_ = steady_seconds() + (mode_ == Mode::kSearch ? kStandInWithin : kWelcomeWithin);
  connection_->send(FrameType::kHello,
                    Packer().text(core_.directory.token).word(static_cast<std::uint64_t>(core_.directory.rank)).take());
}

bool Client::is_dialing() {
  const bool trying = connecting_.valid() || connection_.has_value();
  if (!trying) return false;
  if (closed_) last_error_ = ECONNRESET;
  if (!closed_ && steady_seconds() < way_deadline_) return true;
  if (!closed_) last_error_ = ETIMEDOUT;
  return false;
}

// Rank 0 may not have come to its watchdog yet: all ways, again and again.
void Client::keep_dialing() {
  if (is_dialing()) return;
  if (way_ < ways_.size()) return try_way();
  if (steady_seconds() > pause_until_) dial(callee_);
}

// ---- one turn

void Client::add_polls(std::vector<pollfd>& polls) {
  poll_index_.reset();
  if (connecting_.valid()) {
    poll_index_ = polls.size();
    polls.push_back({.fd = connecting_.get(), .events = POLLOUT, .revents = 0});
  } else if (connection_ && !closed_) {
    poll_index_ = polls.size();
    polls.push_back({.fd = connection_->fd(), .events = connection_->poll_events(), .revents = 0});
  }
}

void Client::serve(const std::vector<pollfd>& polls) {
  if (poll_index_ && polls[*poll_index_].revents != 0) welcome_ ? serve_connection() : serve_dialing();
}

void Client::serve_connection() {
  connection_->flush();
  const bool open = connection_->receive();
  while (connection_) {
    const std::optional<Frame> frame = connection_->next();
    if (!frame) break;
    heard_ = core_.clock.now();
    handle(*frame);
  }
  closed_ = !open;
}

void Client::handle(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kWelcome:
      welcome_ = true;
      beat();
      return;
    case FrameType::kBeat: {
      Unpacker in(frame.payload);
      const double limit = in.number();
      if (in.ok()) hub_limit_ = limit;
      return;
    }
    case FrameType::kMaySay:
      return core_.mail.answer(Unpacker(frame.payload).word() != 0);
    case FrameType::kKeepStacks:
      core_.doom(static_cast<int>(ErrorKind::kWatchdog));
      core_.stacks.begin(frame.payload, core_.options.on_stacks);
      stacks_asked_ = true;
      if (mode_ == Mode::kUp) {
        mode_ = Mode::kFollow;
        deadline_ = steady_seconds() + kEndWithin;
      }
      return;
    case FrameType::kEnd:
      if (const std::optional<EndOrder> order = unpack_end(frame.payload)) obey_end(*order);
      return;
    case FrameType::kFarewell:
      if (mode_ == Mode::kUp) be_alone("");
      return;
    default:  // not a hub's to say
      return;
  }
}

void Client::beat() {
  if (connection_ && connection_->flushed()) connection_->send(FrameType::kBeat, pack(core_.own_state()));
}

void Client::tick() {
  if (mode_ == Mode::kAlone) {
    const RankState mine = core_.own_state();
    if (std::optional<Verdict> verdict = judge(std::span(&mine, 1), core_.rule);
        verdict && verdict->fault == Fault::kStuck) {
      verdict->rank = core_.directory.rank;
      listener_ = Socket();
      takes_over_ = verdict;
    }
    return;
  }
  if (mode_ != Mode::kUp) return;
  beat();
  const double silent = core_.clock.now() - heard_;
  // Another rank comes here only when it has lost the hub; when this one is about to as well, both mean the same.
  pollfd knock{.fd = listener_.get(), .events = POLLIN, .revents = 0};
  const bool others_lost_it = silent > hub_limit_ / 2 && listener_.valid() && ::poll(&knock, 1, 0) > 0;
  if (silent > hub_limit_ || others_lost_it) lose_hub(Fault::kSilent);
}

void Client::advance() {
  const double now = steady_seconds();
  switch (mode_) {
    case Mode::kConnect:
      if (welcome_) {
        mode_ = Mode::kUp;
      } else if (now < deadline_) {
        keep_dialing();
      } else {
        std::string tried;
        for (const std::string& way : ways_) tried += (tried.empty() ? "" : ", ") + way;
        be_alone("the watchdog finds no way to rank 0's at " + core_.directory.of(0).host + " (" + tried + "; port " +
                 std::to_string(core_.directory.of(0).port) +
                 "; last error: " + std::generic_category().message(last_error_) + "): this rank watches itself alone");
      }
      return;
    case Mode::kUp:
      if (closed_) lose_hub(Fault::kDied);
      return;
    case Mode::kSearch:
      if (welcome_) {
        mode_ = Mode::kFollow;
        deadline_ = now + kEndWithin;
      } else {
        search_on();
      }
      return;
    case Mode::kFollow:
      if (stacks_asked_ && core_.stacks.done()) {
        stacks_asked_ = false;
        core_.observe();
        connection_->send(FrameType::kBeat, pack(core_.own_state()));  // as it is now
        connection_->send(FrameType::kStacksKept);
      }
      if (closed_ || now > deadline_) core_.terminate(static_cast<int>(ErrorKind::kWatchdog));
      return;
    case Mode::kEnd:
      if (!core_.alive_here(order_.kill).empty() && now < deadline_) return;
      core_.kill_here(order_.kill);
      return core_.terminate(order_.exit_code);
    case Mode::kLeave:
      if (closed_ || now > deadline_) core_.finish();
      return;
    case Mode::kAlone:
      return;
  }
}

void Client::be_alone(const std::string& warning) {
  hang_up();
  mode_ = Mode::kAlone;
  if (!warning.empty()) core_.mail.warn(warning);
}

void Client::obey_end(const EndOrder& order) {
  core_.doom(order.exit_code);
  order_ = order;
  if (core_.directory.same_machine(callee_)) order_.kill.clear();  // the hub sees to them
  core_.resume_here(order_.kill);
  mode_ = Mode::kEnd;
  deadline_ = steady_seconds() + kResumedEndWithin;
}

// ---- rank 0's hub is lost

void Client::lose_hub(Fault fault) {
  const bool died = fault == Fault::kDied;
  lost_ = Verdict{.fault = fault,
                  .rank = 0,
                  .seconds = died ? 0.0 : core_.clock.now() - heard_,
                  .exit_code = static_cast<int>(died ? ErrorKind::kCommunication : ErrorKind::kWatchdog)};
  core_.doom(lost_->exit_code);
  core_.stacks.begin(to_text(*lost_, std::vector<RankState>(static_cast<std::size_t>(core_.directory.size()))),
                     core_.options.on_stacks);
  if (std::exchange(failing_, false)) core_.mail.answer(false);  // that is why this rank fails
  // Should it only be stopped, this is the first thing it reads afterwards.
  connection_->send(FrameType::kEnd, pack(EndOrder{.exit_code = lost_->exit_code}));
  mode_ = Mode::kSearch;
  deadline_ = steady_seconds() + kSearchWithin;
  hang_up();
  callee_ = 0;
  search_on();
}

void Client::search_on() {
  if (steady_seconds() < deadline_) {
    if (callee_ > 0 && is_dialing()) return;
    if (callee_ > 0 && way_ < ways_.size()) return try_way();
    if (callee_ + 1 < core_.directory.rank) return dial(callee_ + 1);
  }
  hang_up();
  takes_over_ = lost_;
}

// ---- the working thread

void Client::own_failure(const Mailbox::Failure& failure) {
  if (mode_ == Mode::kConnect || mode_ == Mode::kAlone) return core_.mail.answer(true);
  if (mode_ != Mode::kUp || closed_) return core_.mail.answer(false);  // the end is near already, and has another cause
  failing_ = true;
  connection_->send(FrameType::kFailing,
                    Packer().word(static_cast<std::uint64_t>(failure.exit_code)).text(failure.message).take());
}

void Client::own_said() {
  failing_ = false;
  if (connection_) connection_->send(FrameType::kSaid);
}

void Client::leave() {
  if (mode_ == Mode::kSearch || mode_ == Mode::kFollow || mode_ == Mode::kEnd) return;  // the end ends this process
  if (!connection_ || !welcome_) return core_.finish();
  mode_ = Mode::kLeave;
  deadline_ = steady_seconds() + kLeaveWithin;
  connection_->send(FrameType::kFarewell);
  connection_->finish_sending();
}

}  // namespace qat::dist
