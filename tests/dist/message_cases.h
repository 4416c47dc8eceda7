// Messages between ranks, and blocks from every rank to every rank: bodies as in communicator_cases.h, which lists
// them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "kernels/common/error.h"

namespace qat::dist::testing {

inline int right_of(const Communicator& comm) { return (comm.rank() + 1) % comm.size(); }
inline int left_of(const Communicator& comm) { return (comm.rank() + comm.size() - 1) % comm.size(); }

// Different for every sender, tag and turn.
inline std::vector<std::int32_t> message_of(int rank, int tag, int turn, std::int64_t elems) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(elems));
  std::iota(values.begin(), values.end(), 1'000'000 * rank + 10'000 * tag + 1000 * turn);
  return values;
}
inline std::vector<std::int32_t> room_for(std::int64_t elems) {
  return std::vector<std::int32_t>(static_cast<std::size_t>(elems), -1);
}

inline void messages_arrive_by_source_and_tag_in_order(Communicator& comm) {
  // An odd-even order, so that the ring does not depend on send() returning before the peer receives.
  const auto send_all = [&] {
    for (const int tag : {0, 1, 2}) {
      for (const int turn : {0, 1}) {
        const std::vector<std::int32_t> values = message_of(comm.rank(), tag, turn, 100 * tag);
        comm.send(view(values), right_of(comm), tag);
      }
    }
  };
  const auto receive_all = [&] {
    for (const int tag : {0, 1, 2}) {
      for (const int turn : {0, 1}) {
        std::vector<std::int32_t> values = room_for(100 * tag);
        comm.receive(view(values), left_of(comm), tag);
        EXPECT_EQ(values, message_of(left_of(comm), tag, turn, 100 * tag));
      }
    }
  };
  if (comm.size() == 1) return;
  if (comm.rank() % 2 == 0) {
    send_all();
    receive_all();
  } else {
    receive_all();
    send_all();
  }
}

// Far beyond what any backend takes before the receiver has come. In larger groups the others would have no part in it,
// and it would take as long once more.
inline void two_opposite_messages_of_64_mib_pass_each_other(Communicator& comm) {
  constexpr std::int64_t kElems = std::int64_t{16} << 20;
  if (comm.size() != 2) return;
  const int peer = 1 - comm.rank();
  const std::vector<std::int32_t> out = message_of(comm.rank(), 7, 0, kElems);
  std::vector<std::int32_t> in = room_for(kElems);
  const std::vector<SendTo> sends{{.data = view(out), .destination = peer, .tag = 7}};
  const std::vector<ReceiveFrom> receives{{.data = view(in), .source = peer, .tag = 7}};
  comm.exchange(sends, receives);
  const std::int32_t first = message_of(peer, 7, 0, 1)[0];
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < kElems; ++i) wrong += in[static_cast<std::size_t>(i)] == first + i ? 0 : 1;
  EXPECT_EQ(wrong, 0) << "elements";
}

// To both neighbours at once, who are the same rank in a group of two, and oneself in a group of one.
inline void exchanges_go_round_the_ring_in_both_directions(Communicator& comm) {
  for (const int turn : {0, 1, 2}) {
    const std::int64_t elems = 3001 * turn + 1;
    const std::vector<std::int32_t> to_right = message_of(comm.rank(), 1, turn, elems);
    const std::vector<std::int32_t> to_left = message_of(comm.rank(), 2, turn, elems);
    std::vector<std::int32_t> from_left = room_for(elems), from_right = room_for(elems);
    const std::vector<SendTo> sends{{.data = view(to_right), .destination = right_of(comm), .tag = 1},
                                    {.data = view(to_left), .destination = left_of(comm), .tag = 2}};
    const std::vector<ReceiveFrom> receives{{.data = view(from_right), .source = right_of(comm), .tag = 2},
                                            {.data = view(from_left), .source = left_of(comm), .tag = 1}};
    comm.exchange(sends, receives);
    EXPECT_EQ(from_left, message_of(left_of(comm), 1, turn, elems));
    EXPECT_EQ(from_right, message_of(right_of(comm), 2, turn, elems));
  }
}

// Sent in one order of tags and received in another, two messages under each tag; 100 elements for each of tag + 1.
inline void an_exchange_finds_its_messages_by_tag(Communicator& comm) {
  std::vector<std::vector<std::int32_t>> out, in;
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (const int tag : {2, 0, 1})
    for (const int turn : {0, 1}) out.push_back(message_of(comm.rank(), tag, turn, 100 * (tag + 1)));
  for (const int tag : {1, 2, 0})
    for (int turn = 0; turn < 2; ++turn) in.push_back(room_for(100 * (tag + 1)));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int sent[] = {2, 0, 1}, received[] = {1, 2, 0};
    sends.push_back({.data = view(out[i]), .destination = right_of(comm), .tag = sent[i / 2]});
    receives.push_back({.data = view(in[i]), .source = left_of(comm), .tag = received[i / 2]});
  }
  comm.exchange(sends, receives);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const int tag = receives[i].tag;
    EXPECT_EQ(in[i], message_of(left_of(comm), tag, static_cast<int>(i % 2), 100 * (tag + 1))) << "tag " << tag;
  }
}

inline void a_rank_may_send_to_itself(Communicator& comm) {
  const std::vector<std::int32_t> first = message_of(comm.rank(), 3, 0, 500), second = message_of(comm.rank(), 4, 0, 9);
  const std::vector<std::int32_t> to_right = message_of(comm.rank(), 5, 0, 70);
  std::vector<std::int32_t> own_first = room_for(500), own_second = room_for(9), from_left = room_for(70);
  const std::vector<SendTo> sends{{.data = view(second), .destination = comm.rank(), .tag = 4},
                                  {.data = view(to_right), .destination = right_of(comm), .tag = 5},
                                  {.data = view(first), .destination = comm.rank(), .tag = 3}};
  const std::vector<ReceiveFrom> receives{{.data = view(own_first), .source = comm.rank(), .tag = 3},
                                          {.data = view(own_second), .source = comm.rank(), .tag = 4},
                                          {.data = view(from_left), .source = left_of(comm), .tag = 5}};
  comm.exchange(sends, receives);
  EXPECT_EQ(own_first, first);
  EXPECT_EQ(own_second, second);
  EXPECT_EQ(from_left, message_of(left_of(comm), 5, 0, 70));
}

inline void empty_messages_and_empty_exchanges_are_nothing_special(Communicator& comm) {
  comm.exchange({}, {});
  const std::vector<std::int32_t> none, some = message_of(comm.rank(), 1, 0, 5);
  std::vector<std::int32_t> nothing, from_left = room_for(5);
  const std::vector<SendTo> sends{{.data = view(none), .destination = right_of(comm), .tag = 1},
                                  {.data = view(some), .destination = right_of(comm), .tag = 1}};
  const std::vector<ReceiveFrom> receives{{.data = view(nothing), .source = left_of(comm), .tag = 1},
                                          {.data = view(from_left), .source = left_of(comm), .tag = 1}};
  comm.exchange(sends, receives);
  EXPECT_EQ(from_left, message_of(left_of(comm), 1, 0, 5));
}

inline void an_exchange_meets_sends_and_receives(Communicator& comm) {
  if (comm.size() != 2) return;
  const std::int64_t elems = 4000;
  const std::vector<std::int32_t> out = message_of(comm.rank(), 6, 0, elems);
  std::vector<std::int32_t> in = room_for(elems);
  if (comm.rank() == 0) {
    const std::vector<SendTo> sends{{.data = view(out), .destination = 1, .tag = 6}};
    const std::vector<ReceiveFrom> receives{{.data = view(in), .source = 1, .tag = 6}};
    comm.exchange(sends, receives);
  } else {
    comm.receive(view(in), 0, 6);
    comm.send(view(out), 0, 6);
  }
  EXPECT_EQ(in, message_of(1 - comm.rank(), 6, 0, elems));
}

// Found before anything is sent: the next exchange finds no rest of it.
inline void an_exchange_with_a_wrong_message_sends_nothing(Communicator& comm) {
  const std::vector<std::int32_t> lost = message_of(comm.rank(), 0, 1, 8), out = message_of(comm.rank(), 0, 0, 8);
  std::vector<std::int32_t> in = room_for(8);
  const std::vector<SendTo> good{{.data = view(lost), .destination = right_of(comm), .tag = 0}};
  for (const int peer : {-1, comm.size()}) {
    std::vector<SendTo> sends = good;
    sends.push_back({.data = view(lost), .destination = peer, .tag = 0});
    EXPECT_THROW(comm.exchange(sends, {}), Error) << "to rank " << peer;
    const std::vector<ReceiveFrom> receives{{.data = view(in), .source = peer, .tag = 0}};
    EXPECT_THROW(comm.exchange(good, receives), Error) << "from rank " << peer;
  }
  for (const int tag : {-1, 32767}) {
    const std::vector<ReceiveFrom> receives{{.data = view(in), .source = left_of(comm), .tag = tag}};
    EXPECT_THROW(comm.exchange(good, receives), Error) << "tag " << tag;
  }
  const std::vector<SendTo> sends{{.data = view(out), .destination = right_of(comm), .tag = 0}};
  const std::vector<ReceiveFrom> receives{{.data = view(in), .source = left_of(comm), .tag = 0}};
  comm.exchange(sends, receives);
  EXPECT_EQ(in, message_of(left_of(comm), 0, 0, 8));
}

template <typename T>
void expect_all_to_all(Communicator& comm, std::int64_t block) {
  const auto value = [](int from, int to, std::int64_t i) { return static_cast<T>(37 * from + 11 * to + i); };
  std::vector<T> in, expected;
  for (int peer = 0; peer < comm.size(); ++peer) {
    for (std::int64_t i = 0; i < block; ++i) {
      in.push_back(value(comm.rank(), peer, i));
      expected.push_back(value(peer, comm.rank(), i));
    }
  }
  const std::vector<T> before = in;
  std::vector<T> out(in.size(), T{99});
  comm.all_to_all(view(in), view(out));
  EXPECT_EQ(out, expected) << "blocks of " << block;
  EXPECT_EQ(in, before);
}

inline void all_to_all_hands_every_rank_its_block_of_every_other(Communicator& comm) {
  for (const std::int64_t block : {0, 1, 3, 1000, 5003}) {
    expect_all_to_all<float>(comm, block);
    expect_all_to_all<double>(comm, block);
    expect_all_to_all<std::int32_t>(comm, block);
    expect_all_to_all<std::int64_t>(comm, block);
    expect_all_to_all<std::int8_t>(comm, block);
    expect_all_to_all<std::uint8_t>(comm, block);
  }
}

inline void all_to_all_refuses_blocks_that_do_not_fit(Communicator& comm) {
  const auto size = static_cast<std::size_t>(comm.size());
  std::vector<float> blocks(2 * size), longer(3 * size), uneven(2 * size + 1), other(uneven.size());
  std::vector<double> wide(2 * size);
  EXPECT_THROW(comm.all_to_all(view(blocks), view(longer)), Error);
  EXPECT_THROW(comm.all_to_all(view(blocks), view(wide)), Error);
  if (comm.size() > 1) {
    EXPECT_THROW(comm.all_to_all(view(uneven), view(other)), Error);
  }
  comm.barrier();  // nobody was left waiting
}

}  // namespace qat::dist::testing
