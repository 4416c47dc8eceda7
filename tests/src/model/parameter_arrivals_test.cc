// Values that are on their way beside computing: when they have arrived, and what waits for them.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <utility>
#include <vector>

#include "dist/comm/local_comm.h"
#include "dist/grad/norm_block.h"
#include "src/model/parameter_store.h"

namespace qat {
namespace {

// Three weights that may travel as codes, a norm, and what one width has for itself.
struct Model {
  explicit Model(dist::Communicator& with) : comm(with) {
    for (const char* name : {"a", "b", "c"}) {
      weights.push_back(store.add(name, {32, 128}, GroupKind::kBase, /*trainable=*/true, /*decay=*/true));
      store.mark_coded(weights.back());
    }
    norm = store.add("norm", {32}, GroupKind::kBase, /*trainable=*/true, /*decay=*/false);
    own = store.add("own", {64, 64}, {GroupKind::kWidth, 4}, /*trainable=*/true, /*decay=*/true);
    store.allocate(comm.size() * kNormBlock, at::kCPU, /*bucket_elems=*/kNormBlock);
    store.shard({.rank = comm.rank(), .ranks = comm.size()});
    for (int id = 0; id < store.count(); ++id) {
      std::vector<float> values(static_cast<std::size_t>(store.info(id).elems));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 37 + 11) % 101) - 50.0F;
      store.set_values(id, values);
    }
    // Others' elements are old values, which nobody may read.
    for (std::size_t g = 0; g < store.groups().size(); ++g) {
      store.updated(static_cast<int>(g));
      if (!store.groups()[g].is_sharded()) spoil_others(store.groups()[g]);
    }
  }
  void spoil_others(const FlatGroup& group) const {
    const at::NoGradGuard no_grad;
    for (std::size_t b = 0; b < group.layout.buckets().size(); ++b)
      for (int rank = 0; rank < comm.size(); ++rank) {
        const dist::ShardRange shard = group.layout.shard(static_cast<int>(b), rank, comm.size());
        if (rank != comm.rank()) group.values.narrow(0, shard.begin, shard.size()).fill_(1e9F);
      }
  }
  std::int64_t send(const std::vector<bool>& groups) {
    store.make_room(groups);
    return store.send(groups, comm, {.bits = bits, .staging = &staging});
  }
  std::vector<float> values(int id) const {
    const float* const first = store.tensor(id).const_data_ptr<float>();
    return {first, first + store.info(id).elems};
  }

  dist::Communicator& comm;
  ParameterStore store;
  dist::WireStaging staging{dist::host_flat_memory()};
  std::vector<int> weights, bits = {8, 8, 8, 0, 0};
  int norm = 0, own = 0;
};

struct Counted : Model {
  explicit Counted(dist::Communicator& comm) : Model(comm) {
    store.send_beside(StreamRef{});
    store.set_around_wait([this](const std::function<void()>& wait) { ++waits, wait(); });
  }
  int waits = 0;
};

TEST(ParameterArrivals, ATensorIsWaitedForWhereItIsAskedForWithWhatWasSentBefore) {
  dist::run_local_ranks(2, [](dist::Communicator& comm) {
    Model plain(comm);
    Counted beside(comm);
    EXPECT_EQ(beside.send({true, true}), plain.send({true, true}));
    EXPECT_FALSE(plain.store.is_on_its_way(plain.own));
    for (int id = 0; id < beside.store.count(); ++id) EXPECT_TRUE(beside.store.is_on_its_way(id)) << id;
    // A width's own parameters go first, weights that travel as codes last.
    EXPECT_EQ(beside.values(beside.own), plain.values(plain.own));
    EXPECT_EQ(beside.waits, 1);
    for (const int id : {beside.norm, beside.weights[0]}) EXPECT_TRUE(beside.store.is_on_its_way(id)) << id;
    for (const int id : beside.weights) EXPECT_EQ(beside.values(id), plain.values(id)) << id;
    EXPECT_FALSE(beside.store.is_on_its_way(beside.norm)) << "it was sent before them";
    EXPECT_EQ(beside.values(beside.norm), plain.values(plain.norm));
    // Nothing is sent twice.
    const int waits = beside.waits;
    EXPECT_EQ(beside.send({true, true}), 0);
    EXPECT_EQ(beside.values(beside.weights[2]), plain.values(plain.weights[2]));
    EXPECT_EQ(beside.waits, waits);
  });
}

TEST(ParameterArrivals, WhatChangesARanksOwnOrGivesMemoryBackWaits) {
  dist::run_local_ranks(2, [](dist::Communicator& comm) {
    Counted model(comm);
    const auto send = [&] {
      model.store.updated(0), model.store.updated(1);
      model.send({true, true});
      EXPECT_TRUE(model.store.is_on_its_way(model.own));
      EXPECT_TRUE(model.store.is_on_its_way(model.weights[2]));
    };
    const auto nothing_is_on_its_way = [&] {
      for (int id = 0; id < model.store.count(); ++id) EXPECT_FALSE(model.store.is_on_its_way(id)) << id;
    };
    send();
    (void)model.store.own_shards(0);
    nothing_is_on_its_way();
    send();
    model.store.release_all_but({true, false});
    EXPECT_FALSE(model.store.is_on_its_way(model.own));
    EXPECT_EQ(model.store.groups()[1].values.storage().nbytes(), 0U);
    EXPECT_TRUE(model.store.is_on_its_way(model.weights[2]));
    model.store.gather_whole(comm);  // as values: behind the codes
    EXPECT_TRUE(model.store.is_on_its_way(model.weights[2]));
    (void)model.store.checksum();
    nothing_is_on_its_way();
    send();
    model.store.send_beside(std::nullopt);
    nothing_is_on_its_way();
    model.store.updated(0);
    model.send({true, false});
    nothing_is_on_its_way();
  });
}

// A value that is sent again before anybody has asked for it is on its way until the last of it is there.
TEST(ParameterArrivals, WhatIsSentTwiceIsWaitedForTwice) {
  dist::run_local_ranks(2, [](dist::Communicator& comm) {
    Counted model(comm);
    model.send({true, false});
    model.bits = {4, 8, 8, 0, 0};
    EXPECT_GT(model.send({true, false}), 0);
    const int first = model.weights[0];
    (void)model.store.tensor(model.norm);
    EXPECT_TRUE(model.store.is_on_its_way(first));
    (void)model.store.tensor(first);
    EXPECT_FALSE(model.store.is_on_its_way(first));
  });
}

}  // namespace
}  // namespace qat
