#include "src/memory/memory_advice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/byte_units.h"

namespace qat {
namespace {

using test::kGiB;
using test::kMiB;

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

RunConfig cpt() {
  RunConfig config;
  apply_gpt2_preset("gpt2", config.model);
  config.precision.min_bits = 4;
  config.data.sequence_length = 1024;
  config.train.batch_size = 64;
  config.train.micro_batch_size = 8;
  return config;
}

MemoryQuestion on_cpus(std::int64_t host_bytes, bool shared = true) {
  return {
      .needed = [](const RunConfig& c, const RankLayout& l) { return host_memory_needed(c, l, program_bytes(false)); },
      .available = [=](const RankLayout& l) { return shared ? host_bytes / l.ranks_here : host_bytes; }};
}

std::string settings_of(const std::vector<MemoryChange>& changes) {
  std::string text;
  for (const MemoryChange& change : changes) text += change.settings + "\n";
  return text;
}

TEST(MemoryAdvice, OffersThreeChangesThatFitEachOfItsOwnKind) {
  const RankLayout layout{.ranks = 2, .ranks_here = 2, .threads = 4};
  const MemoryQuestion question = on_cpus(36 * kGiB);
  ASSERT_GT(question.needed(cpt(), layout).total(), question.available(layout));
  const auto changes = changes_that_fit(cpt(), layout, question);
  ASSERT_EQ(changes.size(), 3U);
  for (const MemoryChange& change : changes)
    EXPECT_LE(change.bytes, question.available({.ranks_here = 1})) << change.settings;
  EXPECT_THAT(changes[0].settings, HasSubstr("train.micro_batch_size="));
  EXPECT_EQ(changes[1].settings, "compute.recompute=block");
  EXPECT_THAT(changes[2].settings, HasSubstr("parallel.threads_per_rank="));
}

TEST(MemoryAdvice, ChangesAsLittleAsIsEnough) {
  const RankLayout layout;
  for (std::int64_t gib = 4; gib <= 16; ++gib) {
    const MemoryQuestion question = on_cpus(gib * kGiB);
    if (question.needed(cpt(), layout).total() <= gib * kGiB) continue;
    const auto changes = changes_that_fit(cpt(), layout, question);
    ASSERT_FALSE(changes.empty()) << gib;
    if (!changes[0].settings.starts_with("train.micro_batch_size=") ||
        changes[0].settings.find(' ') != std::string::npos)
      continue;
    const std::int64_t chosen = std::stoll(changes[0].settings.substr(changes[0].settings.find('=') + 1));
    RunConfig config = cpt();
    config.train.micro_batch_size = chosen;
    EXPECT_EQ(question.needed(config, layout).total(), changes[0].bytes);
    config.train.micro_batch_size = 2 * chosen;  // the next larger divisor of 64
    EXPECT_GT(question.needed(config, layout).total(), gib * kGiB) << changes[0].settings;
  }
}

TEST(MemoryAdvice, TurnsSeveralSettingsWhereOneIsNotEnough) {
  RunConfig config = cpt();
  config.data.sequence_length = config.model.n_positions = 4096;
  // With ever less memory one setting is not always enough, and in the end none is.
  std::size_t most = 1;
  for (std::int64_t eighths = 12 * 8; eighths > 0; --eighths) {
    const std::int64_t bytes = eighths * kGiB / 8;
    const auto changes = changes_that_fit(config, {.threads = 2}, on_cpus(bytes));
    if (changes.empty()) break;
    const std::string& first = changes[0].settings;
    const auto settings = static_cast<std::size_t>(std::count(first.begin(), first.end(), ' ')) + 1;
    most = std::max(most, settings);
    for (const MemoryChange& change : changes) EXPECT_LE(change.bytes, bytes) << change.settings;
  }
  EXPECT_GE(most, 2U);
}

TEST(MemoryAdvice, FewerRanksOnAHostShareItsMemory) {
  const RankLayout layout{.ranks = 4, .ranks_here = 4};
  EXPECT_THAT(settings_of(changes_that_fit(cpt(), layout, on_cpus(24 * kGiB), /*most=*/9)),
              HasSubstr("mpirun -np 2 parallel.threads_per_rank=1"));
  // A limit of each process stays what it is.
  EXPECT_THAT(settings_of(changes_that_fit(cpt(), layout, on_cpus(6 * kGiB, /*shared=*/false), /*most=*/9)),
              Not(HasSubstr("mpirun")));
}

TEST(MemoryAdvice, OnAGpuBlocksAreRecomputedAndModelsOfTheSameVocabularyAreSmaller) {
  RunConfig config = cpt();
  apply_gpt2_preset("gpt2-xl", config.model);
  config.train.micro_batch_size = 64;
  const MemoryQuestion question{.needed = gpu_memory_needed, .available = [](const RankLayout&) { return 20 * kGiB; }};
  const auto changes = changes_that_fit(config, {.cuda = true}, question, /*most=*/9);
  EXPECT_THAT(settings_of(changes),
              AllOf(HasSubstr("model.preset=gpt2"), Not(HasSubstr("threads")), Not(HasSubstr("micro\n"))));
  for (const MemoryChange& change : changes) EXPECT_LE(change.bytes, 20 * kGiB);
}

TEST(MemoryAdvice, AnEvaluationChangesOnlyWhatIsItsOwn) {
  RunConfig config = cpt();
  config.eval.batch_size = 64;
  const RankLayout layout{.ranks = 1, .ranks_here = 1, .threads = 2, .training = false};
  const auto changes = changes_that_fit(config, layout, on_cpus(5 * kGiB), /*most=*/9);
  EXPECT_THAT(settings_of(changes),
              AllOf(HasSubstr("eval.batch_size="), Not(HasSubstr("train.")), Not(HasSubstr("model."))));
}

TEST(MemoryAdvice, SaysWhenNothingFits) {
  EXPECT_THAT(describe(changes_that_fit(cpt(), {}, on_cpus(100 * kMiB))), HasSubstr("a machine with more memory"));
}

TEST(MemoryAdvice, NamesTheLargestConsumersFirst) {
  const MemoryEstimate estimate{.moment = "a training step",
                                .consumers = {{"activations", 3 * kGiB}, {"parameters", kGiB}, {"loss", kGiB / 2}}};
  EXPECT_EQ(describe(estimate, 2),
            "about 4.50 GiB in a training step: activations 3.00 GiB, parameters 1.00 GiB, others 512.00 MiB");
  EXPECT_EQ(describe(estimate, 3),
            "about 4.50 GiB in a training step: activations 3.00 GiB, parameters 1.00 GiB, loss 512.00 MiB");
  EXPECT_EQ(describe({{.settings = "a=1", .bytes = kGiB}}), "this change would fit:\n  a=1: about 1.00 GiB");
}

}  // namespace
}  // namespace qat
