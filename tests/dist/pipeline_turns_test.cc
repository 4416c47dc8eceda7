#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "dist/pipeline/simulator.h"
#include "dist/pipeline/turns.h"

namespace qat::dist {
namespace {

using enum PipelineSchedule;
using enum ActionKind;

struct Shape {
  PipelineSchedule schedule;
  int stages;
  std::int64_t micro_batches;
  int chunks;
  bool trains = true;

  std::string text() const {
    return "schedule " + std::to_string(static_cast<int>(schedule)) + ", p " + std::to_string(stages) + ", m " +
           std::to_string(micro_batches) + ", v " + std::to_string(chunks) + (trains ? "" : ", forward only");
  }
  std::vector<PipelineTurn> turns(int stage) const {
    return stage_turns(schedule, stage, stages, micro_batches, chunks, trains);
  }
};

void for_every_shape(const std::function<void(const Shape&)>& check) {
  for (int stages = 2; stages <= 8; ++stages)
    for (std::int64_t micro_batches = 1; micro_batches <= 32; ++micro_batches)
      for (const bool trains : {true, false}) {
        check({kGpipe, stages, micro_batches, 1, trains});
        check({kOneFOneB, stages, micro_batches, 1, trains});
        for (int chunks = 2; chunks <= 4; ++chunks) check({kInterleaved, stages, micro_batches, chunks, trains});
        if (::testing::Test::HasFailure()) return;  // one shape's messages are enough
      }
}

std::vector<PipelineAction> passes_of(std::vector<PipelineAction> actions) {
  std::erase_if(actions, [](const PipelineAction& action) { return is_transfer(action.kind); });
  return actions;
}

std::vector<PipelineAction> flat(const std::vector<PipelineTurn>& turns) {
  std::vector<PipelineAction> actions;
  for (const PipelineTurn& turn : turns) {
    actions.insert(actions.end(), turn.transfers.begin(), turn.transfers.end());
    actions.insert(actions.end(), turn.passes.begin(), turn.passes.end());
  }
  return actions;
}

// A message as both of its ends know it: sender, receiver, whether it goes forward, the receiver's chunk, micro-batch.
using Message = std::tuple<int, int, bool, int, std::int64_t>;

Message message_of(const PipelineAction& transfer, int stage, const Shape& shape) {
  const PipelinePeer peer = peer_of(transfer, stage, shape.stages, shape.chunks);
  const bool forward = transfer.kind == kSendForward || transfer.kind == kReceiveForward;
  if (is_send(transfer.kind)) return {stage, peer.stage, forward, peer.chunk, transfer.micro_batch};
  return {peer.stage, stage, forward, transfer.chunk, transfer.micro_batch};
}

// Stages that take their turns, and wait in each exchange until all of its messages are under way at both ends. Returns
// when the last one is done; a transfer takes no time.
double run(const Shape& shape, double forward, double backward) {
  struct Stage {
    std::vector<PipelineTurn> turns;
    std::size_t next = 0;
    bool posted = false;
    double clock = 0.0;
  };
  struct End {
    double at = 0.0;
    std::size_t turn = 0;
  };
  std::vector<Stage> stages(static_cast<std::size_t>(shape.stages));
  for (int s = 0; s < shape.stages; ++s) stages[static_cast<std::size_t>(s)].turns = shape.turns(s);
  std::map<Message, End> sent, received;
  std::map<std::tuple<int, std::size_t, int>, std::size_t> same_moment;  // of two stages' turns
  const auto advance = [&](int s) {
    Stage& me = stages[static_cast<std::size_t>(s)];
    if (me.next == me.turns.size()) return false;
    const PipelineTurn& turn = me.turns[me.next];
    if (!me.posted)
      for (const PipelineAction& action : turn.transfers) {
        const bool first = (is_send(action.kind) ? sent : received)
                               .emplace(message_of(action, s, shape), End{.at = me.clock, .turn = me.next})
                               .second;
        EXPECT_TRUE(first) << to_text(action, shape.chunks);
      }
    me.posted = true;
    double end = me.clock;
    for (const PipelineAction& action : turn.transfers) {
      const auto& others = is_send(action.kind) ? received : sent;
      const auto other = others.find(message_of(action, s, shape));
      if (other == others.end()) return false;
      end = std::max(end, other->second.at);
      const int peer = peer_of(action, s, shape.stages, shape.chunks).stage;
      const std::size_t theirs = same_moment.emplace(std::tuple(s, me.next, peer), other->second.turn).first->second;
      if (shape.chunks > 1) {
        EXPECT_EQ(theirs, other->second.turn) << "messages of one exchange meet several";
      }
    }
    me.clock = end;
    for (const PipelineAction& action : turn.passes)
      me.clock += (action.kind == kForward ? forward : backward) / shape.chunks;
    ++me.next;
    me.posted = false;
    return true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (int s = 0; s < shape.stages; ++s)
      while (advance(s)) moved = true;
  }
  double last = 0.0;
  for (const Stage& stage : stages) {
    EXPECT_EQ(stage.next, stage.turns.size()) << "stages wait for ever";
    last = std::max(last, stage.clock);
  }
  EXPECT_EQ(sent.size(), received.size());
  return last;
}

TEST(PipelineTurns, HaveThePassesOfTheListsInTheirOrderAndTheirTransfers) {
  for_every_shape([](const Shape& shape) {
    for (int s = 0; s < shape.stages; ++s) {
      const std::vector<PipelineAction> list =
          shape.trains ? stage_actions(shape.schedule, s, shape.stages, shape.micro_batches, shape.chunks)
                       : forward_actions(shape.schedule, s, shape.stages, shape.micro_batches, shape.chunks);
      std::vector<PipelineAction> own = flat(shape.turns(s));
      EXPECT_EQ(passes_of(own), passes_of(list)) << shape.text() << ", stage " << s;
      const auto before = [](const PipelineAction& a, const PipelineAction& b) {
        return std::tuple(a.kind, a.chunk, a.micro_batch) < std::tuple(b.kind, b.chunk, b.micro_batch);
      };
      std::vector<PipelineAction> sorted = list;
      std::sort(sorted.begin(), sorted.end(), before), std::sort(own.begin(), own.end(), before);
      EXPECT_EQ(own, sorted) << shape.text() << ", stage " << s;
    }
  });
}

TEST(PipelineTurns, EveryPassHasItsInputByThen) {
  for_every_shape([](const Shape& shape) {
    SimulatedPipeline pipeline;
    for (int s = 0; s < shape.stages; ++s) {
      pipeline.stages.push_back(flat(shape.turns(s)));
      pipeline.times.emplace_back(static_cast<std::size_t>(shape.chunks), ChunkTime{1.0, 2.0});
    }
    pipeline.receives_ahead = 2;
    EXPECT_NO_THROW(simulate(pipeline)) << shape.text();
  });
}

// Also where an exchange waits for all of its messages, which with several chunks meet in one exchange at both ends.
TEST(PipelineTurns, NobodyWaitsForEver) {
  for_every_shape([](const Shape& shape) {
    SCOPED_TRACE(shape.text());
    run(shape, 1.0, 2.0);
  });
}

TEST(PipelineTurns, AStepOfSeveralChunksTakesTheFormulasTimeAllTheSame) {
  for_every_shape([](const Shape& shape) {
    if (shape.chunks == 1 || !shape.trains) return;
    const std::int64_t whole = (shape.micro_batches + shape.stages - 1) / shape.stages * shape.stages;
    for (const auto& [f, b] : {std::pair{3.0, 3.0}, {3.0, 6.0}, {3.0, 2.0}}) {
      const double formula = (static_cast<double>(whole) + (shape.stages - 1.0) / shape.chunks) * (f + b);
      const double taken = run(shape, f, b);
      EXPECT_LE(taken, formula * (1.0 + 1e-9)) << shape.text();
      if (whole == shape.micro_batches) {
        EXPECT_GE(taken, formula * (1.0 - 1e-9)) << shape.text();
      }
    }
  });
}

TEST(PipelineTurns, OfTwoChunksByHand) {
  const std::vector<PipelineTurn> of_last = stage_turns(kInterleaved, 1, 2, 2, 2, /*trains=*/true);
  ASSERT_EQ(of_last.size(), 7U);
  EXPECT_EQ(of_last[0], (PipelineTurn{{{kReceiveForward, 0, 0}}, {{kForward, 0, 0}}}));
  EXPECT_EQ(of_last[2],
            (PipelineTurn{{{kSendForward, 0, 1}, {kReceiveForward, 1, 0}}, {{kForward, 1, 0}, {kBackward, 1, 0}}}));
  EXPECT_EQ(of_last[4], (PipelineTurn{{{kSendBackward, 1, 1}, {kReceiveBackward, 0, 0}}, {{kBackward, 0, 0}}}));
  EXPECT_EQ(of_last[6], (PipelineTurn{{{kSendBackward, 0, 1}}, {}}));
}

}  // namespace
}  // namespace qat::dist
