// What each rank answers for, after real steps.
#include "src/train/owned_state.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

struct Values {
  std::vector<float> values, exp_avg, exp_avg_sq;
  bool operator==(const Values&) const = default;
};

// Every trainable parameter, put together from what the ranks own.
std::map<int, Values> put_together(int ranks, bool frozen_base) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  std::map<int, Values> whole;
  std::map<int, std::vector<int>> owners;
  std::mutex mutex;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec;
    spec.config.freeze_base = frozen_base;
    spec.config.n_embd = 40;  // its linear weights lie on several ranks
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    for (int step = 0; step < 2; ++step) rank.step(static_cast<std::uint64_t>(step), 8, 8);
    const ParameterStore& store = rank.model().parameters();
    const std::lock_guard lock(mutex);
    int last = -1;
    for (const OwnedState& own : owned_state(store, rank.runner().optimizer())) {
      EXPECT_GT(own.id, last);
      last = own.id;
      EXPECT_TRUE(store.info(own.id).trainable);
      Values& all = whole[own.id];
      std::vector<int>& times = owners[own.id];
      const auto elems = static_cast<std::size_t>(store.info(own.id).elems);
      for (std::vector<float>* const one : {&all.values, &all.exp_avg, &all.exp_avg_sq}) one->resize(elems);
      times.resize(elems);
      for (std::int64_t i = 0; i < own.elems; ++i) {
        const auto from = static_cast<std::size_t>(i), to = static_cast<std::size_t>(own.first + i);
        ++times[to];
        all.values[to] = own.values[from];
        all.exp_avg[to] = own.exp_avg[from];
        all.exp_avg_sq[to] = own.exp_avg_sq[from];
      }
    }
  });
  for (const auto& [id, times] : owners)
    EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](int n) { return n == 1; })) << id << " on " << ranks;
  return whole;
}

TEST(OwnedState, RanksHaveTogetherWhatOneRankHasAlone) {
  for (const bool frozen_base : {false, true}) {
    const auto alone = put_together(1, frozen_base);
    TinyModel spec;
    spec.config.freeze_base = frozen_base;
    spec.build();
    EXPECT_EQ(alone.size(), spec.model->parameters().trainable_tensors().size());
    for (const int ranks : {2, 4, 8}) EXPECT_EQ(put_together(ranks, frozen_base), alone) << ranks;
  }
}

}  // namespace
}  // namespace qat
