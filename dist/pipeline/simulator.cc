#include "dist/pipeline/simulator.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

struct Message {
  PipelineAction send;
  int receiver_chunk;
  double ready_us;
};

// The messages of one kind that one stage receives, all from the same stage, in order.
class Channel {
 public:
  Channel(int sender, int receiver, double transfer_us, int ahead)
      : sender_(sender), receiver_(receiver), transfer_us_(transfer_us), posted_us_(static_cast<std::size_t>(ahead)) {}

  void send(Message message) { sent_.push_back(message); }
  void post(double at_us) { posted_us_.push_back(at_us); }

  // Moves what can move; its spans go to `timeline`.
  void advance(Timeline& timeline) {
    while (arrived_us_.size() < sent_.size() && arrived_us_.size() < posted_us_.size()) {
      const std::size_t k = arrived_us_.size();
      const Message& message = sent_[k];
      const double begin = std::max({message.ready_us, posted_us_[k], k == 0 ? 0.0 : arrived_us_[k - 1]});
      const double end = begin + transfer_us_;
      arrived_us_.push_back(end);
      const bool forward = message.send.kind == ActionKind::kSendForward;
      timeline.push_back({.rank = sender_, .action = message.send, .begin_us = begin, .end_us = end});
      timeline.push_back({.rank = receiver_,
                          .action = {.kind = forward ? ActionKind::kReceiveForward : ActionKind::kReceiveBackward,
                                     .chunk = message.receiver_chunk,
                                     .micro_batch = message.send.micro_batch},
                          .begin_us = begin,
                          .end_us = end});
    }
  }

  std::size_t sent() const { return sent_.size(); }
  bool all_received() const { return received_ == sent_.size(); }
  // When message k was there; none: it is not yet.
  std::optional<double> arrival(std::size_t k) const {
    return k < arrived_us_.size() ? std::optional(arrived_us_[k]) : std::nullopt;
  }
  // Of the message that is received after `further` others.
  std::optional<double> next_arrival(std::size_t further = 0) const { return arrival(received_ + further); }
  const Message& receive() { return sent_[received_++]; }

 private:
  int sender_;
  int receiver_;
  double transfer_us_;
  std::vector<Message> sent_;
  std::vector<double> posted_us_;
  std::vector<double> arrived_us_;
  std::size_t received_ = 0;
};

using Slot = std::pair<int, std::int64_t>;  // chunk, micro-batch

// A message that a stage has sent.
struct Sent {
  Channel* channel;
  std::size_t number;
};

// Transfers that are one exchange.
struct Exchange {
  bool under_way = false;
  std::size_t end = 0;  // the action behind it
  std::vector<Sent> sends;
  std::map<Channel*, std::size_t> receives;  // how many
};

struct Stage {
  std::size_t next = 0;  // action
  double clock_us = 0.0;
  std::optional<Sent> blocked_on;
  Exchange exchange;
  std::set<Slot> inputs, gradients;         // received and not yet used
  std::set<Slot> outputs, input_gradients;  // computed and not yet sent
  std::set<Slot> forward, backward;         // passes done
  std::vector<Channel*> to_post;            // a receive for each, once a pass has used what they brought
};

class Simulation {
 public:
  explicit Simulation(const SimulatedPipeline& pipeline)
      : p_(pipeline), count_(static_cast<int>(pipeline.stages.size())) {
    QAT_CHECK(count_ >= 1 && p_.times.size() == p_.stages.size(), "a list and times for every stage");
    QAT_CHECK(p_.receives_ahead >= 1 && p_.transfer_us >= 0.0, "room for a message, and no time backwards");
    QAT_CHECK(p_.turns.empty() || (p_.turns.size() == p_.stages.size() && p_.transfers == TransferMode::kExchanges),
              "turns of every stage, in exchanges");
    chunks_ = static_cast<int>(p_.times[0].size());
    for (const auto& times : p_.times)
      QAT_CHECK(chunks_ >= 1 && std::ssize(times) == chunks_, "the same number of chunks on every stage");
    const int ahead = p_.transfers == TransferMode::kExchanges ? 0 : p_.receives_ahead;
    for (int s = 0; s < count_; ++s) {
      channels_[0].emplace_back((s + count_ - 1) % count_, s, p_.transfer_us, ahead);
      channels_[1].emplace_back((s + 1) % count_, s, p_.transfer_us, ahead);
    }
    stages_.resize(p_.stages.size());
  }

  Timeline run() && {
    for (bool moved = true; moved;) {
      moved = false;
      for (int s = 0; s < count_; ++s)
        while (step(s)) moved = true;
    }
    check_end();
    return std::move(timeline_);
  }

 private:
  Stage& stage(int s) { return stages_[static_cast<std::size_t>(s)]; }
  const std::vector<PipelineAction>& actions(int s) const { return p_.stages[static_cast<std::size_t>(s)]; }
  Channel& channel(bool forward, int receiver) {
    return channels_[forward ? 0 : 1][static_cast<std::size_t>(receiver)];
  }
  bool first_piece(int s, int chunk) const { return s == 0 && chunk == 0; }
  bool last_piece(int s, int chunk) const { return s == count_ - 1 && chunk == chunks_ - 1; }

  [[noreturn]] void fail(int s, const PipelineAction& action, const std::string& why) const {
    throw Error(ErrorKind::kInternal,
                "pipeline: stage " + std::to_string(s) + ", " + to_text(action, chunks_) + ": " + why);
  }

  // The stage's next action; false if it has to wait, or has none.
  bool step(int s) {
    Stage& me = stage(s);
    if (me.next == actions(s).size()) return false;
    const PipelineAction& action = actions(s)[me.next];
    if (action.chunk < 0 || action.chunk >= chunks_) fail(s, action, "no such chunk");
    if (is_transfer(action.kind) && p_.transfers == TransferMode::kExchanges) return exchange(s);
    const bool done = is_receive(action.kind) ? receive(s, action)
                      : is_send(action.kind)  ? send(s, action)
                                              : pass(s, action);
    if (done) ++me.next;
    return done;
  }

  bool receive(int s, const PipelineAction& action) {
    Stage& me = stage(s);
    Channel& from = receiving(s, action);
    from.advance(timeline_);
    const std::optional<double> arrival = from.next_arrival();
    if (!arrival) return false;
    take(s, action, from);
    me.clock_us = std::max(me.clock_us, *arrival);
    me.to_post.push_back(&from);
    return true;
  }

  Channel& receiving(int s, const PipelineAction& action) {
    return channel(action.kind == ActionKind::kReceiveForward, s);
  }

  // The message that has arrived.
  void take(int s, const PipelineAction& action, Channel& from) {
    Stage& me = stage(s);
    const Message& message = from.receive();
    if (message.receiver_chunk != action.chunk || message.send.micro_batch != action.micro_batch)
      fail(s, action, "what comes is the stage before's " + to_text(message.send, chunks_));
    (action.kind == ActionKind::kReceiveForward ? me.inputs : me.gradients).insert({action.chunk, action.micro_batch});
  }

  Sent begin_send(int s, const PipelineAction& action) {
    Stage& me = stage(s);
    const bool forward = action.kind == ActionKind::kSendForward;
    const PipelinePeer peer = peer_of(action, s, count_, chunks_);
    if ((forward ? me.outputs : me.input_gradients).erase({action.chunk, action.micro_batch}) == 0)
      fail(s, action, "there is nothing to send");
    Channel& to = channel(forward, peer.stage);
    to.send({.send = action, .receiver_chunk = peer.chunk, .ready_us = me.clock_us});
    return {.channel = &to, .number = to.sent() - 1};
  }

  bool send(int s, const PipelineAction& action) {
    Stage& me = stage(s);
    if (!me.blocked_on) me.blocked_on = begin_send(s, action);
    me.blocked_on->channel->advance(timeline_);
    if (p_.transfers == TransferMode::kBlockingSends) {
      const std::optional<double> arrival = me.blocked_on->channel->arrival(me.blocked_on->number);
      if (!arrival) return false;
      me.clock_us = *arrival;
    }
    me.blocked_on.reset();
    return true;
  }

  // All transfers from the stage's next action to its next pass.
  bool exchange(int s) {
    Stage& me = stage(s);
    if (!me.exchange.under_way) begin_exchange(s);
    double end = me.clock_us;
    for (const Sent& sent : me.exchange.sends) {
      sent.channel->advance(timeline_);
      const std::optional<double> arrival = sent.channel->arrival(sent.number);
      if (!arrival) return false;
      end = std::max(end, *arrival);
    }
    for (const auto& [from, count] : me.exchange.receives) {
      from->advance(timeline_);
      const std::optional<double> last = from->next_arrival(count - 1);
      if (!last) return false;
      end = std::max(end, *last);
    }
    for (; me.next < me.exchange.end; ++me.next) {
      const PipelineAction& action = actions(s)[me.next];
      if (is_receive(action.kind)) take(s, action, receiving(s, action));
    }
    me.clock_us = end;
    me.exchange = {};
    return true;
  }

  void begin_exchange(int s) {
    Stage& me = stage(s);
    me.exchange.under_way = true;
    me.exchange.end = me.next;
    for (std::size_t& i = me.exchange.end; i < actions(s).size() && is_transfer(actions(s)[i].kind); ++i) {
      if (i > me.next && begins_turn(s, i)) break;
      const PipelineAction& action = actions(s)[i];
      if (is_send(action.kind)) {
        me.exchange.sends.push_back(begin_send(s, action));
      } else {
        receiving(s, action).post(me.clock_us);
        ++me.exchange.receives[&receiving(s, action)];
      }
    }
  }

  bool begins_turn(int s, std::size_t action) const {
    if (p_.turns.empty()) return false;
    const std::vector<std::size_t>& turns = p_.turns[static_cast<std::size_t>(s)];
    return std::binary_search(turns.begin(), turns.end(), action);
  }

  bool pass(int s, const PipelineAction& action) {
    Stage& me = stage(s);
    const Slot slot{action.chunk, action.micro_batch};
    const bool forward = action.kind == ActionKind::kForward;
    if (!(forward ? me.forward : me.backward).insert(slot).second) fail(s, action, "it is done already");
    if (forward ? !take_input(me, s, slot) : !take_gradient(me, s, slot)) fail(s, action, "its input is not there");
    const ChunkTime& time = p_.times[static_cast<std::size_t>(s)][static_cast<std::size_t>(action.chunk)];
    const double begin = me.clock_us;
    me.clock_us += forward ? time.forward_us : time.backward_us;
    timeline_.push_back({.rank = s, .action = action, .begin_us = begin, .end_us = me.clock_us});
    if (count_ > 1 && forward && !last_piece(s, action.chunk)) me.outputs.insert(slot);
    if (count_ > 1 && !forward && !first_piece(s, action.chunk)) me.input_gradients.insert(slot);
    for (Channel* used : me.to_post) used->post(me.clock_us);
    me.to_post.clear();
    return true;
  }

  // A single stage hands its chunks' outputs on by itself.
  bool take_input(Stage& me, int s, Slot slot) const {
    if (first_piece(s, slot.first)) return true;
    if (count_ == 1) return me.forward.contains({slot.first - 1, slot.second});
    return me.inputs.erase(slot) == 1;
  }
  bool take_gradient(Stage& me, int s, Slot slot) const {
    if (!me.forward.contains(slot)) return false;
    if (last_piece(s, slot.first)) return true;
    if (count_ == 1) return me.backward.contains({slot.first + 1, slot.second});
    return me.gradients.erase(slot) == 1;
  }

  void check_end() {
    std::string waiting;
    for (int s = 0; s < count_; ++s)
      if (stage(s).next < actions(s).size())
        waiting += (waiting.empty() ? "" : "; ") + ("stage " + std::to_string(s) + " waits in ") +
                   to_text(actions(s)[stage(s).next], chunks_);
    if (!waiting.empty()) throw Error(ErrorKind::kInternal, "pipeline: the stages wait for ever: " + waiting);
    for (int s = 0; s < count_; ++s) {
      const Stage& me = stage(s);
      const std::string name = "pipeline: stage " + std::to_string(s);
      if (!me.outputs.empty() || !me.input_gradients.empty() || !me.inputs.empty() || !me.gradients.empty())
        throw Error(ErrorKind::kInternal, name + ": something is computed or received and then neither sent nor used");
      if (!me.backward.empty() && me.backward != me.forward)
        throw Error(ErrorKind::kInternal, name + ": not every forward pass has a backward pass");
      if (!channel(true, s).all_received() || !channel(false, s).all_received())
        throw Error(ErrorKind::kInternal, name + ": a message for it is never received");
    }
  }

  const SimulatedPipeline& p_;
  int count_;
  int chunks_ = 0;
  std::array<std::vector<Channel>, 2> channels_;  // forward, backward; by receiver
  std::vector<Stage> stages_;
  Timeline timeline_;
};

}  // namespace

void SimulatedPipeline::add_turns(const std::vector<PipelineTurn>& turns_of_stage) {
  transfers = TransferMode::kExchanges;
  std::vector<PipelineAction>& actions = stages.emplace_back();
  std::vector<std::size_t>& begins = turns.emplace_back();
  for (const PipelineTurn& turn : turns_of_stage) {
    begins.push_back(actions.size());
    actions.insert(actions.end(), turn.transfers.begin(), turn.transfers.end());
    actions.insert(actions.end(), turn.passes.begin(), turn.passes.end());
  }
}

Timeline simulate(const SimulatedPipeline& pipeline) { return Simulation(pipeline).run(); }

}  // namespace qat::dist
