#include "src/config/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "src/config/field_table.h"
#include "src/config/validate.h"
#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using ::testing::IsEmpty;
using testing::read_text;
using testing::source_folder;

// QAT_UPDATE_GENERATED=1 writes the file first, as `qat_dist schema` does.
void expect_generated(const std::filesystem::path& path, const std::string& text) {
  if (std::getenv("QAT_UPDATE_GENERATED") != nullptr) std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(read_text(path), text) << path
                                   << " is not what the table of keys gives: write it again with qat_dist schema";
}

TEST(ConfigurationSchema, TheFileInConfigsIsCurrent) {
  expect_generated(source_folder() / "configs" / "schema.json", configuration_schema());
}

TEST(ConfigurationMarkdown, ThePageInDocsIsCurrent) {
  expect_generated(source_folder() / "docs" / "configuration.md", configuration_markdown());
}

// Enough of draft-07 for our own schema, so that a key that it lacks or a bound that it states wrongly is seen.
void expect_conforms(const Value& schema, const Value& value, const std::string& path) {
  if (const Value* constant = schema.find("const")) {
    EXPECT_EQ(*constant, value) << path;
  }
  if (const Value* allowed = schema.find("enum")) {
    EXPECT_THAT(allowed->as_array(), ::testing::Contains(value)) << path;
  }
  const Value* type = schema.find("type");
  const std::string name = type == nullptr ? "" : type->as_string();
  if (name == "object") {
    ASSERT_TRUE(value.is_object()) << path;
    for (const auto& [key, member, line] : value.as_object()) {
      const Value* property = schema.at("properties").find(key);
      ASSERT_NE(property, nullptr) << path << "." << key;
      expect_conforms(*property, member, path + "." + key);
    }
  } else if (name == "array") {
    ASSERT_TRUE(value.is_array()) << path;
    EXPECT_GE(value.as_array().size(), schema.find("minItems") == nullptr ? 0U : 1U) << path;
    for (const Value& item : value.as_array()) expect_conforms(schema.at("items"), item, path + "[]");
  } else if (name == "integer" || name == "number") {
    ASSERT_TRUE(name == "integer" ? value.is_int() : value.is_number()) << path;
    if (const Value* minimum = schema.find("minimum")) {
      EXPECT_GE(value.as_double(), minimum->as_double()) << path;
    }
    if (const Value* maximum = schema.find("maximum")) {
      EXPECT_LE(value.as_double(), maximum->as_double()) << path;
    }
  } else if (name == "string") {
    EXPECT_TRUE(value.is_string()) << path;
  } else if (name == "boolean") {
    EXPECT_TRUE(value.is_bool()) << path;
  }
}

TEST(ConfigurationSchema, AcceptsTheDefaultsAndItsOwnDefaults) {
  const Value schema = parse_json(configuration_schema(), "schema.json");
  expect_conforms(schema, config_to_json(RunConfig{}), "");
  EXPECT_EQ(schema.at("properties").at("train").at("properties").at("steps").at("default").as_int(), 1000);
  EXPECT_FALSE(schema.at("properties").at("quant").at("additionalProperties").as_bool());
}

TEST(ConfigurationMarkdown, HasARowForEveryKey) {
  const std::string page = configuration_markdown();
  for (const auto& field : run_fields())
    EXPECT_NE(page.find("| `" + field.path + "` |"), std::string::npos) << field.path;
}

TEST(FieldTable, EveryKeyHasAMeaningAndASection) {
  for (const auto& field : run_fields()) {
    EXPECT_FALSE(field.meaning.empty()) << field.path;
    EXPECT_NE(find_section(field.path.substr(0, field.path.rfind('.'))), nullptr) << field.path;
  }
}

TEST(FieldTable, WritesRunsOfNumbersShort) {
  EXPECT_EQ(list_of_ints({0, 2, 3, 4, 5, 32}), "0, 2..5 or 32");
  EXPECT_EQ(list_of_ints({4, 8}), "4 or 8");
  EXPECT_EQ(list_of_ints({2, 3}), "2 or 3");
  EXPECT_EQ(list_of_ints({7}), "7");
}

TEST(Presets, AllNamesApplyAndFitTheRules) {
  std::string names = gpt2_preset_names();
  int count = 0;
  for (const auto& choice : find_field("model.preset")->rule.choices) {
    RunConfig config;
    ASSERT_TRUE(apply_gpt2_preset(choice, config.model)) << choice;
    EXPECT_EQ(config.model.preset, choice);
    EXPECT_THAT(cross_check(config).errors, IsEmpty()) << choice;
    ++count;
  }
  EXPECT_EQ(count, 1 + std::count(names.begin(), names.end(), ','));
  RunConfig config;
  EXPECT_FALSE(apply_gpt2_preset("gpt5", config.model));
  EXPECT_EQ(config.model.n_embd, 768);
}

TEST(Presets, Gpt2SizesHaveThePublishedParameterCounts) {
  const auto parameters = [](const char* name) {  // tied head, learned positions, biases everywhere
    Gpt2Config m;
    EXPECT_TRUE(apply_gpt2_preset(name, m));
    const std::int64_t d = m.n_embd;
    return (m.vocab_size + m.n_positions) * d + m.n_layer * (12 * d * d + 13 * d) + 2 * d;
  };
  EXPECT_EQ(parameters("gpt2"), 124439808);
  EXPECT_EQ(parameters("gpt2-medium"), 354823168);
  EXPECT_EQ(parameters("gpt2-large"), 774030080);
  EXPECT_EQ(parameters("gpt2-xl"), 1557611200);
}

TEST(ShippedConfigurations, LoadWithoutWarningsAndFitTheirRanks) {
  for (const char* name :
       {"quickstart.json", "cpt.json", "tiny_cpu.json", "sp.json", "spnet.json", "instantnet.json"}) {
    const std::filesystem::path path = source_folder() / "configs" / name;
    const LoadResult result = load_run_config(path, {});
    EXPECT_THAT(result.warnings, IsEmpty()) << name;
    for (const int ranks : {1, 2, 4}) EXPECT_NO_THROW(validate_parallel(result.config, ranks)) << name;
    expect_conforms(parse_json(configuration_schema(), "schema.json"), parse_json(read_text(path), name), name);
    EXPECT_NE(parse_json(read_text(path), name).find("$schema"), nullptr) << name;
  }
}

}  // namespace
}  // namespace qat
