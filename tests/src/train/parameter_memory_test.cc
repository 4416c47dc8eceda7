// What parameters that each width has for itself take of a rank's memory, counted where they lie.
#include "src/train/parameter_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

constexpr int kWidths = 18;  // 2..18 bits and 32

TinyModel switchable() {
  TinyModel spec;
  spec.quant.widths = {32};
  for (int bits = 2; bits <= 18; ++bits) spec.quant.widths.push_back(bits);
  spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
  return spec;
}

// Two blocks as wide as those of 124M, with adapters of rank 64 on a frozen base. What lies between parameters weighs
// the more the fewer blocks there are.
TinyModel as_wide_as_124m() {
  TinyModel spec = switchable();
  spec.config.n_embd = 768, spec.config.n_head = 12, spec.config.freeze_base = true;
  spec.lora.rank = 64, spec.lora.alpha = 128.0;
  return spec;
}

struct Counted {
  std::int64_t kept = 0, held = 0, moments = 0;
  std::int64_t all() const { return kept + held + moments; }
};

// Of single widths' groups.
Counted counted(TinyRank& rank, int ranks) {
  Counted bytes;
  for (const FlatGroup& group : rank.model().parameters().groups()) {
    if (group.key.kind != GroupKind::kWidth) continue;
    bytes.held += static_cast<std::int64_t>(group.values.storage().nbytes());
    bytes.kept += static_cast<std::int64_t>(group.own.storage().nbytes());
  }
  const OptimLayout& layout = rank.runner().optimizer().layout();
  for (std::size_t g = 0; g < layout.groups.size(); ++g)
    if (rank.model().parameters().groups()[g].key.kind == GroupKind::kWidth)
      bytes.moments += 2 * layout.groups[g].layout.own_elems(ranks) * static_cast<std::int64_t>(sizeof(float));
  EXPECT_EQ(std::ssize(rank.runner().optimizer().exp_avg()), layout.own_elems());
  return bytes;
}

// Of the parameters alone, at the width that has most.
std::int64_t largest_width(const ParameterStore& store) {
  std::int64_t most = 0;
  for (const FlatGroup& group : store.groups()) {
    std::int64_t bytes = 0;
    for (const int id : group.ids) bytes += store.info(id).elems * static_cast<std::int64_t>(sizeof(float));
    if (group.key.kind == GroupKind::kWidth) most = std::max(most, bytes);
  }
  return most;
}

TEST(ParameterMemory, EighteenWidthsOnEightRanksTakeOneWidthAndAnEighthOfEach) {
  constexpr int kRanks = 8;
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(kRanks, [&](dist::Communicator& comm) {
    TinyModel spec = as_wide_as_124m();
    StepRunnerOptions options = test::tiny_options();
    options.train = {.batch_size = kRanks, .micro_batch_size = 1};
    TinyRank rank(spec, tokens, comm, options);
    const ParameterMemory said = parameter_memory(rank.model(), spec.quant, kRanks);
    EXPECT_EQ(said.widths, kWidths);
    const auto bound = static_cast<std::int64_t>((1.0 + 3.0 * kWidths / kRanks) * 1.05 *
                                                 static_cast<double>(largest_width(rank.model().parameters())));
    EXPECT_LE(said.of_widths(), bound);
    EXPECT_EQ(counted(rank, kRanks).held, 0);
    std::uint64_t step = 0;
    for (const int bits : {2, 18, 32, 8}) {
      rank.step(step++, bits, 8);
      const Counted bytes = counted(rank, kRanks);
      EXPECT_LE(bytes.all(), bound) << bits;
      EXPECT_EQ(bytes.kept, said.widths_kept);
      EXPECT_EQ(bytes.moments, said.widths_moments);
      EXPECT_LE(bytes.held, said.widths_held);
      if (bits == 8) EXPECT_EQ(bytes.held, said.widths_held);
    }
  });
}

// What the line at a run's start says is what lies in a rank's memory, kind by kind.
TEST(ParameterMemory, IsWhatIsAllocated) {
  const TokenSource tokens = test::tiny_tokens();
  struct Case {
    bool freeze = false, tie = true;
    Slots adapters = Slots::kShared, norms = Slots::kShared;
  };
  for (const Case& one : {Case{}, Case{.freeze = true}, Case{.tie = false, .adapters = Slots::kPerWidth},
                          Case{.freeze = true, .adapters = Slots::kPerWidth, .norms = Slots::kPerWidth}}) {
    for (const int ranks : {1, 2, 4}) {
      SCOPED_TRACE(testing::Message() << ranks << " ranks, frozen " << one.freeze << ", tied " << one.tie);
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        TinyModel spec;
        spec.quant.widths = {2, 4, 8};
        spec.config.freeze_base = one.freeze, spec.config.tie_lm_head = one.tie;
        spec.lora.slots = one.adapters, spec.config.norm_slots = one.norms;
        TinyRank rank(spec, tokens, comm, test::tiny_options());
        const ParameterMemory said = parameter_memory(rank.model(), spec.quant, ranks);
        rank.step(0, 4, 8);
        const ParameterStore& store = rank.model().parameters();
        std::map<GroupKind, std::int64_t> lies;
        std::int64_t kept = 0;
        for (const FlatGroup& group : store.groups()) {
          lies[group.key.kind] += static_cast<std::int64_t>(group.values.storage().nbytes());
          if (group.is_sharded()) kept += static_cast<std::int64_t>(group.own.storage().nbytes());
        }
        std::set<const void*> counted;  // what is frozen lies in one buffer
        for (int id = 0; id < store.count(); ++id) {
          const at::Storage& storage = store.tensor(id).storage();
          if (!store.info(id).trainable && counted.insert(storage.data()).second)
            lies[GroupKind::kBase] += static_cast<std::int64_t>(storage.nbytes());
        }
        EXPECT_EQ(said.base, lies[GroupKind::kBase] + lies[GroupKind::kTied]);
        EXPECT_EQ(said.shared, lies[GroupKind::kShared]);
        EXPECT_EQ(said.widths_kept, ranks == 1 ? lies[GroupKind::kWidth] : kept);
        EXPECT_EQ(said.widths_held, ranks == 1 ? 0 : lies[GroupKind::kWidth]);
        ShardedAdamW& optimizer = rank.runner().optimizer();
        EXPECT_EQ(said.moments + said.widths_moments,
                  static_cast<std::int64_t>(optimizer.exp_avg().size_bytes() + optimizer.exp_avg_sq().size_bytes()));
      });
    }
  }
}

// Nor while the model is made and its initial values are set.
TEST(ParameterMemory, AModelThatIsSharedOutFromTheBeginningIsNeverWhole) {
  const TinyModel spec = switchable();
  Gpt2 whole(spec.config, spec.lora, spec.quant, StepRunner::padding(4));
  whole.init_random(3);
  whole.parameters().shard({.rank = 2, .ranks = 4});
  Gpt2 model(spec.config, spec.lora, spec.quant, StepRunner::padding(4), {}, Recompute::kNone, {},
             {.rank = 2, .ranks = 4});
  const auto& groups = model.parameters().groups();
  const auto none_is_whole = [&] {
    for (const FlatGroup& group : groups) {
      if (group.key.kind != GroupKind::kWidth) continue;
      EXPECT_EQ(group.values.storage().nbytes(), 0U) << group.key.bits;
    }
  };
  none_is_whole();
  model.init_random(3);
  none_is_whole();
  ASSERT_EQ(groups.size(), whole.parameters().groups().size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const FlatGroup& other = whole.parameters().groups()[g];
    EXPECT_EQ(groups[g].is_sharded(), groups[g].key.kind == GroupKind::kWidth);
    EXPECT_TRUE(at::equal(groups[g].is_sharded() ? groups[g].own : groups[g].values,
                          other.is_sharded() ? other.own : other.values))
        << groups[g].key.bits;
  }
  EXPECT_THROW(model.parameters().shard({.rank = 1, .ranks = 4}), Error);
}

TEST(ParameterMemory, AMapsPassHoldsAllOfItsWidths) {
  TinyModel spec = switchable();
  bool beside = false;
  const auto held = [&] {
    spec.build();
    return parameter_memory(*spec.model, spec.quant, /*ranks=*/2, /*widths_at_once=*/1, beside).widths_held;
  };
  const std::int64_t one = held();
  beside = true;
  EXPECT_EQ(held(), 2 * one);  // a pass's and the next one's
  spec.quant.maps = {"8", "stripe8&4"};
  const std::int64_t with_next = held();  // 32 bits come after the stripes
  for (const FlatGroup& group : spec.model->parameters().groups())
    if (group.key == GroupKey(GroupKind::kWidth, 32))
      EXPECT_EQ(with_next, 2 * one + group.layout.elems() * static_cast<std::int64_t>(sizeof(float)));
  beside = false;
  spec.quant.maps = {"8", "stripe8&4"};
  EXPECT_EQ(held(), 2 * one);
  spec.quant.maps = {"8,4,2,4,8,4,2,3"};
  EXPECT_EQ(held(), 4 * one);
}

TEST(ParameterMemory, SaysWhatEachKindTakes) {
  TinyModel spec = switchable();
  spec.build();
  EXPECT_THAT(describe(parameter_memory(*spec.model, spec.quant, /*ranks=*/2)),
              testing::MatchesRegex("parameters in a rank's memory: base .* KiB, shared by all widths 0 B, AdamW's "
                                    "moments .* KiB; 18 widths have parameters of their own, .* MiB, of which it keeps "
                                    ".* MiB, with moments of .* MiB, and holds .* KiB more while a pass uses them"));
  EXPECT_THAT(describe(parameter_memory(*spec.model, spec.quant, /*ranks=*/2, 1, /*beside=*/true)),
              testing::EndsWith(" more while a pass uses them and those of the next one come"));
  const std::string alone = describe(parameter_memory(*spec.model, spec.quant, /*ranks=*/1));
  EXPECT_THAT(alone, testing::HasSubstr("18 widths have parameters of their own"));
  EXPECT_THAT(alone, testing::Not(testing::HasSubstr("holds")));
  spec.lora.slots = spec.config.norm_slots = Slots::kShared;
  spec.build();
  EXPECT_THAT(describe(parameter_memory(*spec.model, spec.quant, /*ranks=*/2)),
              testing::MatchesRegex("[^;]*shared by all widths [0-9.]+ KiB[^;]*"));
}

}  // namespace
}  // namespace qat
