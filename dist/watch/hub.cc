#include "dist/watch/hub.h"

#include <algorithm>
#include <utility>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// Seconds. Together with a client's search for a stand-in they stay below the last resort's.
constexpr double kHelloWithin = 5.0;
constexpr double kHoldFor = 0.5;
constexpr double kSayWithin = 3.0;
constexpr double kStacksWithin = 2.0;
constexpr double kGatherFor = 1.5;
constexpr double kCloseWithin = 2.0;
constexpr double kFarewellWithin = 2.0;
constexpr double kNewsEvery = 1.0;

bool has_news(const BoardView& a, const BoardView& b) { return a.section != b.section || a.steps != b.steps; }

}  // namespace

Hub::Hub(WatchCore& core, Socket listener)
    : core_(core), listener_(std::move(listener)), members_(core.directory.ranks.size()) {
  member(core_.directory.rank).state.link = Link::kUp;
}

Hub::Hub(WatchCore& core, Socket listener, const Verdict& verdict) : Hub(core, std::move(listener)) {
  stands_in_ = true;
  gather_until_ = steady_seconds() + kGatherFor;
  Member& lost = member(verdict.rank);
  lost.state.link = verdict.fault == Fault::kDied ? Link::kGone : Link::kUp;
  begin_end(verdict);
}

// ---- connections

void Hub::add_polls(std::vector<pollfd>& polls) {
  const auto add = [&](int fd, short events) {
    polls.push_back({.fd = fd, .events = events, .revents = 0});
    return polls.size() - 1;
  };
  if (listener_.valid()) listener_poll_index_ = add(listener_.get(), POLLIN);
  for (Guest& guest : guests_) guest.poll_index = add(guest.connection.fd(), guest.connection.poll_events());
  for (Member& one : members_)
    if (one.connection) one.poll_index = add(one.connection->fd(), one.connection->poll_events());
}

void Hub::serve(const std::vector<pollfd>& polls) {
  for (std::size_t rank = 0; rank < members_.size(); ++rank)
    if (members_[rank].connection && polls[members_[rank].poll_index].revents != 0)
      serve_member(static_cast<int>(rank));
  for (Guest& guest : guests_)
    if (polls[guest.poll_index].revents != 0) serve_guest(guest);
  const double now = steady_seconds();
  for (Guest& guest : guests_) {
    if (guest.rank) admit(guest);
    guest.closed = guest.closed || guest.rank || now > guest.deadline;
  }
  std::erase_if(guests_, [](const Guest& guest) { return guest.closed; });
  if (listener_.valid() && polls[listener_poll_index_].revents != 0) accept_guests();
}

void Hub::accept_guests() {
  for (Socket socket = accept_connection(listener_); socket.valid(); socket = accept_connection(listener_))
    guests_.push_back({.connection = Connection(std::move(socket)), .deadline = steady_seconds() + kHelloWithin});
}

void Hub::serve_guest(Guest& guest) {
  guest.closed = !guest.connection.receive();
  const std::optional<Frame> frame = guest.connection.next();
  if (!frame) return;
  Unpacker in(frame->payload);
  const bool knows_us = frame->type == FrameType::kHello && in.text() == core_.directory.token;
  const auto rank = static_cast<int>(in.word());
  const bool ours = knows_us && in.ok() && rank >= 0 && rank < core_.directory.size() && rank != core_.directory.rank &&
                    member(rank).state.link == Link::kNever;
  if (ours) guest.rank = rank;
  guest.closed = guest.closed || !ours;
}

void Hub::admit(Guest& guest) {
  const int rank = *guest.rank;
  Member& one = member(rank);
  // It counts as connected from its first beat on: until then it may have given up waiting and come again.
  one.connection = std::make_unique<Connection>(std::move(guest.connection));
  one.heard = core_.clock.now();
  one.connection->send(FrameType::kWelcome);
  if (phase_ == Phase::kStacks) one.connection->send(FrameType::kKeepStacks, report_->what);
  if (phase_ == Phase::kClose) one.connection->send(FrameType::kEnd, pack(end_order()));
  if (phase_ == Phase::kLeave) one.connection->send(FrameType::kFarewell);
  while (const std::optional<Frame> frame = one.connection->next()) {  // what came together with the hello
    handle(rank, *frame);
    if (!one.connection) return;
  }
}

void Hub::serve_member(int rank) {
  Member& one = member(rank);
  one.connection->flush();
  const bool open = one.connection->receive();
  while (one.connection) {
    const std::optional<Frame> frame = one.connection->next();
    if (!frame) break;
    one.heard = core_.clock.now();
    handle(rank, *frame);
  }
  if (!open && one.connection) close_member(rank);
}

void Hub::close_member(int rank) {
  Member& one = member(rank);
  one.connection.reset();
  if (one.state.link == Link::kUp) one.state.link = Link::kGone;
}

void Hub::handle(int rank, const Frame& frame) {
  Member& one = member(rank);
  switch (frame.type) {
    case FrameType::kBeat:
      if (std::optional<RankState> state = unpack_state(frame.payload)) {
        state->link = Link::kUp;
        one.state = *state;
      }
      return;
    case FrameType::kFarewell:
      one.state.link = Link::kLeft;
      one.connection.reset();
      return;
    case FrameType::kFailing: {
      Unpacker in(frame.payload);
      const auto exit_code = static_cast<int>(in.word());
      const std::string message = in.text();
      if (in.ok()) failure_of(rank, {.exit_code = exit_code, .message = message});
      return;
    }
    case FrameType::kSaid:
      return said_by(rank);
    case FrameType::kStacksKept:
      one.kept_stacks = true;
      return;
    case FrameType::kEnd:  // this process was stopped for so long that the others have ended the run without it
      if (const std::optional<EndOrder> order = unpack_end(frame.payload)) core_.terminate(order->exit_code);
      return;
    default:  // not a rank's to say
      return;
  }
}

void Hub::send_to_all(FrameType type, const std::string& payload) {
  for (Member& one : members_)
    if (one.connection) one.connection->send(type, payload);
}

// ---- watching

std::vector<RankState> Hub::states() const {
  std::vector<RankState> all;
  for (std::size_t rank = 0; rank < members_.size(); ++rank) {
    const bool own = static_cast<int>(rank) == core_.directory.rank;
    RankState state = own ? core_.own_state() : members_[rank].state;
    if (!own && state.link == Link::kUp) {
      state.silent = core_.clock.now() - members_[rank].heard;
      state.stalled += state.silent;
    }
    all.push_back(state);
  }
  return all;
}

void Hub::tick() {
  if (phase_ != Phase::kWatch) return;
  judge_now();
  if (phase_ != Phase::kWatch) return;
  const double limit = limit_of(core_.rule, states(), core_.view().section);
  const std::string beat = Packer().number(limit).take();
  // A rank that does not read gets no more: its buffers are full of beats already.
  for (Member& one : members_)
    if (one.connection && one.connection->flushed()) one.connection->send(FrameType::kBeat, beat);
  warn_of_missing();
  tell_news();
}

void Hub::judge_now() {
  if (const std::optional<Verdict> verdict = judge(states(), core_.rule)) begin_end(*verdict);
}

void Hub::warn_of_missing() {
  if (warned_of_missing_ || core_.clock.now() < core_.options.connect_seconds + 1.0) return;
  warned_of_missing_ = true;
  std::vector<int> missing;
  for (std::size_t rank = 0; rank < members_.size(); ++rank)
    if (members_[rank].state.link == Link::kNever) missing.push_back(static_cast<int>(rank));
  if (missing.empty()) return;
  core_.mail.warn(
      "the watchdog of " + name_ranks(missing) + " has found no way to rank 0's (" + core_.directory.me().host +
      ", port " + std::to_string(core_.directory.me().port) +
      "): such a rank watches itself alone, and its death goes unnoticed until others wait too long for it. "
      "Let the hosts of a run connect to each other by TCP");
}

void Hub::tell_news() {
  if (!core_.options.on_change || steady_seconds() < told_at_ + kNewsEvery || !has_news(told_, core_.view())) return;
  told_ = core_.view();
  told_at_ = steady_seconds();
  core_.options.on_change(told_);
}

bool Hub::has_died(int besides) const {
  for (std::size_t rank = 0; rank < members_.size(); ++rank)
    if (members_[rank].state.link == Link::kGone && static_cast<int>(rank) != besides) return true;
  return false;
}

// ---- a rank that has failed and says so itself

void Hub::failure_of(int rank, const Mailbox::Failure& failure) {
  if (phase_ != Phase::kWatch) return answer(rank, false);
  failing_ = rank;
  verdict_ = Verdict{.fault = Fault::kFailed, .rank = rank, .exit_code = failure.exit_code, .message = failure.message};
  if (failure.exit_code != static_cast<int>(ErrorKind::kCommunication)) return accept_failure();
  phase_ = Phase::kHold;
  deadline_ = steady_seconds() + kHoldFor;
}

void Hub::answer(int rank, bool may_say) {
  if (rank == core_.directory.rank) return core_.mail.answer(may_say);
  if (member(rank).connection) member(rank).connection->send(FrameType::kMaySay, Packer().word(may_say ? 1 : 0).take());
}

void Hub::accept_failure() {
  core_.doom(verdict_->exit_code);
  report_ = report(*verdict_);
  answer(failing_, true);
  phase_ = Phase::kSaying;
  deadline_ = steady_seconds() + kSayWithin;
}

// rank: -1 where it can say nothing any more.
void Hub::said_by(int rank) {
  if (phase_ != Phase::kSaying || (rank >= 0 && rank != failing_)) return;
  said_ = rank >= 0;
  speak_and_close();
}

// ---- the end

void Hub::begin_end(const Verdict& verdict) {
  verdict_ = verdict;
  core_.doom(verdict.exit_code);
  report_ = report(verdict);
  phase_ = Phase::kStacks;
  deadline_ = steady_seconds() + kStacksWithin;
  send_to_all(FrameType::kKeepStacks, report_->what);
  core_.stacks.begin(report_->what, core_.options.on_stacks);
}

EndReport Hub::report(const Verdict& verdict) const {
  const std::vector<RankState> all = states();
  const RankState& concerned = all[static_cast<std::size_t>(verdict.rank)];
  EndReport report{.verdict = verdict,
                   .what = to_text(verdict, all),
                   .host = core_.directory.of(verdict.rank).host,
                   .pid = core_.directory.of(verdict.rank).process.pid,
                   .steps = core_.view().steps};
  // A stand-in has never heard of the rank it stands in for.
  const bool known = !stands_in_ || verdict.rank == core_.directory.rank;
  if (known) report.activity = activity(concerned);
  if (all.size() > 1 && verdict.fault != Fault::kHang && !is_alone())
    report.others = activities(all, /*except=*/verdict.rank);
  // Who has just answered is up to date; the others cannot be ahead of them.
  for (const Member& one : members_)
    if (one.kept_stacks) report.steps = std::min(report.steps, one.state.steps);
  return report;
}

void Hub::advance() {
  const double now = steady_seconds();
  switch (phase_) {
    case Phase::kWatch:
      if (has_died(/*besides=*/-1)) judge_now();
      return;
    case Phase::kHold:
      if (has_died(/*besides=*/failing_)) {
        answer(failing_, false);
        judge_now();
      } else if (now > deadline_ || has_died(/*besides=*/-1)) {
        accept_failure();
      }
      return;
    case Phase::kSaying:
      if (now > deadline_ || member(failing_).state.link == Link::kGone) said_by(-1);
      return;
    case Phase::kStacks:
      if (now > deadline_ || (stacks_are_kept() && (now > gather_until_ || !stands_in_))) speak_and_close();
      return;
    case Phase::kClose: {
      std::vector<int> left;
      for (std::size_t rank = 0; rank < members_.size() && !is_alone(); ++rank)
        if (members_[rank].state.link != Link::kLeft) left.push_back(static_cast<int>(rank));
      if ((!all_closed() || !core_.alive_here(left).empty()) && now < deadline_) return;
      core_.kill_here(left);
      return core_.terminate(verdict_->exit_code);
    }
    case Phase::kLeave:
      if (all_closed() || now > deadline_) core_.finish();
      return;
  }
}

bool Hub::stacks_are_kept() const {
  return core_.stacks.done() && std::all_of(members_.begin(), members_.end(),
                                            [](const Member& one) { return !one.connection || one.kept_stacks; });
}

bool Hub::all_closed() const {
  return guests_.empty() &&
         std::none_of(members_.begin(), members_.end(), [](const Member& one) { return one.connection != nullptr; });
}

// Whoever has not answered cannot exit by itself, or is not connected and would wait for the others.
EndOrder Hub::end_order() const {
  EndOrder order{.exit_code = verdict_->exit_code};
  for (std::size_t rank = 0; rank < members_.size(); ++rank) {
    const Member& one = members_[rank];
    const bool own = static_cast<int>(rank) == core_.directory.rank;
    const bool answers = one.connection && (one.kept_stacks || verdict_->fault == Fault::kFailed);
    if (!own && !answers && one.state.link != Link::kLeft) order.kill.push_back(static_cast<int>(rank));
  }
  return order;
}

void Hub::speak_and_close() {
  core_.observe();
  report_ = report(*verdict_);  // with what the others have told since
  report_->said = said_;
  if (core_.options.on_end) core_.options.on_end(*report_);
  const EndOrder order = end_order();
  phase_ = Phase::kClose;
  deadline_ = steady_seconds() + kCloseWithin;
  send_to_all(FrameType::kEnd, pack(order));
  if (!is_alone()) core_.resume_here(order.kill);
}

void Hub::leave() {
  if (phase_ != Phase::kWatch) return;  // the end has begun, and ends this process
  phase_ = Phase::kLeave;
  deadline_ = steady_seconds() + kFarewellWithin;
  send_to_all(FrameType::kFarewell, {});
}

}  // namespace qat::dist
