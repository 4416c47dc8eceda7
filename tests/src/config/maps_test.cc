// Maps of layers' widths in a configuration: what fits together, and what is said of what does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::load_sets;
using testing::Sets;

const Sets kSpnet = {"model.preset=nano", "train.recipe=spnet"};

Sets with(Sets sets, const Sets& more) {
  sets.insert(sets.end(), more.begin(), more.end());
  return sets;
}

TEST(Maps, AreReadAsTexts) {
  const RunConfig config =
      load_sets(with(kSpnet, {"quant.maps=[\"8\", \"mine: stripe8&4\"]", "eval.maps=[\"W4A8KV8\"]"})).config;
  EXPECT_THAT(config.quant.maps, ElementsAre("8", "mine: stripe8&4"));
  EXPECT_THAT(config.eval.maps, ElementsAre("W4A8KV8"));
}

TEST(Maps, ThatDoNotFitAreNamedWithWhatWould) {
  const auto error = [](const Sets& more) { return error_of("{}", with(kSpnet, more)); };
  EXPECT_THAT(error({"quant.maps=[\"8\",\"strip8&4\"]"}),
              HasSubstr("quant.maps[1] = \"strip8&4\": must be a width, a list of widths"));
  EXPECT_THAT(error({"quant.maps=[\"8,4\"]"}), HasSubstr("must list 8 widths, 4 for each of 2 blocks, not 2"));
  EXPECT_THAT(error({"quant.maps=[\"8\",\"a: 8,8,4,4,8,8,4,4\",\"a: 4\"]"}),
              HasSubstr("quant.maps[2] = \"a: 4\": must not have the name of another map"));
  EXPECT_THAT(error({"quant.maps=[\"8\"]", "quant.overrides=[{\"layers\":\"h.0.*\",\"weight_bits\":4}]"}),
              HasSubstr("must change gradient_bits alone where there are quant.maps"));
  EXPECT_THAT(error({"quant.maps=[8]"}), HasSubstr("quant.maps[0] = 8: must be"));
  EXPECT_THAT(error({"eval.maps=[\"INT5\"]"}), HasSubstr("eval.maps[0] = \"INT5\": must be"));
}

TEST(Maps, OfOtherWidthsThanThereAreSlotsForAreNotEvaluated) {
  const Sets own = with(kSpnet, {"lora.slots=per_width", "quant.widths=[4,8,32]", "quant.maps=[\"8\",\"6\",\"4\"]"});
  EXPECT_THAT(error_of("{}", with(own, {"eval.maps=[\"stripe8&3\"]"})),
              HasSubstr("must have no weights of 3 bits: the model has adapters or layer norms of its own for each of "
                        "the widths 4, 6, 8, 32"));
  EXPECT_NO_THROW(load_sets(with(own, {"eval.maps=[\"stripe8&6\",\"W4A3KV3\",\"FP32\"]", "eval.bits=[6]"})));
  EXPECT_NO_THROW(load_sets(with(kSpnet, {"eval.maps=[\"stripe8&3\"]", "quant.widths=[4,8,32]"})));
  EXPECT_THAT(
      load_sets(with(kSpnet, {"lora.slots=per_width", "quant.widths=[4,5,8,32]", "quant.maps=[\"8\",\"4\"]"})).warnings,
      ElementsAre(HasSubstr("of their own at 5 bits, which no map trains")));
}

TEST(Maps, AreSwitchedBetweenByTheSchedulesThatCan) {
  const Sets cpt = {"model.preset=nano", "quant.maps=[\"8\",\"stripe8&4\"]"};
  EXPECT_THAT(error_of("{}", cpt), HasSubstr("precision.kind = \"cosine\" (default): must be cyclic, random"));
  for (const char* kind : {"cyclic", "random", "progressive"})
    EXPECT_THAT(load_sets(with(cpt, {std::string("precision.kind=") + kind})).warnings, IsEmpty()) << kind;
  EXPECT_THAT(error_of("{}", with(cpt, {"precision.kind=scheduled", "precision.pattern=[\"8:5\",\"stripe4&2\"]"})),
              HasSubstr("precision.pattern[1] = \"stripe4&2\": must be one of quant.maps"));
  EXPECT_THAT(error_of("{}", with(cpt, {"precision.kind=cyclic", "precision.static_after=10"})),
              HasSubstr("precision.static_at = \"\" (default): must be one of quant.maps"));
  EXPECT_NO_THROW(
      load_sets(with(cpt, {"precision.kind=cyclic", "precision.static_after=10", "precision.static_at=stripe8&4"})));
}

TEST(Maps, LeaveBlocksNoPlacesOfTheirOwnInTheSchedule) {
  const Sets cpt = {"model.preset=nano", "precision.kind=cyclic", "precision.layer_offset=2"};
  EXPECT_THAT(load_sets(cpt).warnings, IsEmpty());
  EXPECT_THAT(error_of("{}", with(cpt, {"quant.maps=[\"8\",\"4\"]"})),
              HasSubstr("precision.layer_offset = 2: must be 0 with quant.maps"));
  EXPECT_THAT(load_sets({"precision.kind=constant", "precision.layer_offset=2"}).warnings,
              ElementsAre(HasSubstr("a constant schedule is the same everywhere")));
  EXPECT_THAT(load_sets(with(kSpnet, {"precision.layer_offset=2"})).warnings,
              ElementsAre(HasSubstr("precision.layer_offset")));
}

TEST(Maps, SwitchingKeysThatDoNothingAreWarnedOf) {
  const auto warnings = [](const Sets& sets) { return load_sets(sets).warnings; };
  EXPECT_THAT(warnings({"precision.switch_interval=5"}), ElementsAre(HasSubstr("has no effect")));
  EXPECT_THAT(warnings({"precision.pattern=[\"8\"]"}), ElementsAre(HasSubstr("has no effect")));
  EXPECT_THAT(warnings({"precision.static_at=8"}), ElementsAre(HasSubstr("has no effect")));
  EXPECT_THAT(warnings({"precision.kind=cyclic", "precision.switch_probability=0.5"}),
              ElementsAre(HasSubstr("only the random schedule draws")));
  EXPECT_THAT(warnings({"precision.kind=cyclic", "precision.cycles=3"}),
              ElementsAre(HasSubstr("a schedule that switches visits all")));
  EXPECT_THAT(warnings({"precision.kind=random", "precision.switch_probability=0.5"}), IsEmpty());
}

TEST(Maps, KeysAndValuesMayHaveAnyWidth) {
  EXPECT_EQ(load_sets({"quant.kv_bits=16"}).config.quant.kv_bits, 16);
  EXPECT_THAT(error_of("{}", {"quant.kv_bits=1"}), HasSubstr("quant.kv_bits = 1: must be 2..18 or 32"));
}

}  // namespace
}  // namespace qat
