#include "src/export/hf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/common/error.h"
#include "tests/src/base/scratch_folder.h"
#include "tests/src/export/model_files.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class HfFolder : public ::testing::Test {
 protected:
  std::filesystem::path folder() const { return scratch_.path() / "model"; }
  std::string error() const {
    try {
      const HfModel model(folder());
      return {};
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(folder().string()));
      return error.what();
    }
  }
  // As it should be read: every tensor in this program's layout.
  static std::vector<float> expected(const Gpt2Tensor& tensor) {
    const auto stored = TinyGpt2::values(tensor.name, element_count(tensor.shape));
    if (!tensor.transposed) return stored;
    const std::int64_t out = tensor.shape[0], in = tensor.shape[1];
    std::vector<float> values;
    for (std::int64_t o = 0; o < out; ++o)
      for (std::int64_t i = 0; i < in; ++i) values.push_back(stored[static_cast<std::size_t>(i * out + o)]);
    return values;
  }
  void expect_values(HfModel& model) const {
    for (const Gpt2Tensor& tensor : model.tensors()) {
      if (tensor.name == kLmHead) continue;
      const auto want = expected(tensor);
      std::vector<float> got(want.size());
      const std::size_t half = got.size() / 2;
      model.read(tensor, static_cast<std::int64_t>(half), std::span(got).subspan(half));
      model.read(tensor, 0, std::span(got).first(half));
      EXPECT_EQ(got, want) << tensor.name;
    }
  }
  static MadeTensor& named(std::vector<MadeTensor>& tensors, const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
  }
  static void drop(std::vector<MadeTensor>& tensors, const std::string& name) {
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == name; });
  }

  ScratchFolder scratch_;
  TinyGpt2 made_;
};

TEST_F(HfFolder, NamesWithAndWithoutPrefixGiveTheSameModelTransposed) {
  for (const bool prefix : {true, false}) {
    std::vector<MadeTensor> tensors = made_.tensors(prefix);
    const std::string h = prefix ? "transformer.h.1." : "h.1.";
    tensors.push_back({h + "attn.bias", "U8", {1, 1, 2, 2}, "abcd"});
    tensors.push_back({h + "attn.masked_bias", "F32", {}, std::string(4, '\0')});
    made_.write(folder(), tensors);
    HfModel model(folder());
    EXPECT_TRUE(model.config().tie_lm_head);
    EXPECT_THAT(model.notes(), IsEmpty());
    EXPECT_EQ(model.tensors().size(), 28U);
    expect_values(model);
  }
}

TEST_F(HfFolder, SixteenBitNumbersAreTakenAsTheyAre) {
  std::vector<MadeTensor> tensors = made_.tensors();
  for (MadeTensor& tensor : tensors) {
    std::vector<float> values(tensor.bytes.size() / 4);
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    if (tensor.name.find("mlp") != tensor.name.npos) continue;  // mixed files exist
    tensor.bytes = upper_halves(values);
    tensor.dtype = "BF16";
  }
  made_.write(folder(), tensors);
  HfModel model(folder());
  expect_values(model);
}

TEST_F(HfFolder, TheHeadIsTiedWhereThereIsOneMatrixOrTwoThatAreEqual) {
  std::vector<MadeTensor> tensors = made_.tensors();
  MadeTensor head = named(tensors, kTokenEmbedding);
  head.name = kLmHead;
  auto both = tensors, only_head = tensors;
  both.push_back(head);
  drop(only_head, kTokenEmbedding);
  only_head.push_back(head);
  for (const auto& some : {tensors, both, only_head}) {
    made_.write(folder(), some);
    HfModel model(folder());
    EXPECT_TRUE(model.config().tie_lm_head);
    EXPECT_THAT(model.notes(), IsEmpty());
    expect_values(model);
  }
}

TEST_F(HfFolder, AHeadThatDiffersIsTheModelsOwn) {
  std::vector<MadeTensor> tensors = made_.tensors();
  const std::vector<float> values = TinyGpt2::values("another", 88);
  tensors.push_back({kLmHead, "F32", {11, 8}, bytes_of_floats(values)});
  for (const char* said : {"", R"(, "tie_word_embeddings": true)", R"(, "tie_word_embeddings": false)"}) {
    TinyGpt2 made = made_;
    made.config_json.insert(made.config_json.size() - 1, said);
    made.write(folder(), tensors);
    HfModel model(folder());
    EXPECT_FALSE(model.config().tie_lm_head);
    if (std::string(said).ends_with("false")) {
      EXPECT_THAT(model.notes(), IsEmpty());
    } else {
      EXPECT_THAT(model.notes(), ElementsAre(HasSubstr("lm_head.weight differs")));
    }
    expect_values(model);
    std::vector<float> head(88);
    model.read(model.tensors().back(), 0, head);
    EXPECT_EQ(head, values);
  }
}

TEST_F(HfFolder, AnUntiedHeadMustBeThereAndOneThatIsEqualStaysItsOwn) {
  std::vector<MadeTensor> tensors = made_.tensors();
  made_.config_json.insert(made_.config_json.size() - 1, R"(, "tie_word_embeddings": false)");
  made_.write(folder(), tensors);
  EXPECT_THAT(error(), HasSubstr("1 tensors are missing (lm_head.weight)"));
  MadeTensor head = named(tensors, kTokenEmbedding);
  head.name = kLmHead;
  tensors.push_back(head);
  made_.write(folder(), tensors);
  EXPECT_FALSE(HfModel(folder()).config().tie_lm_head);
}

TEST_F(HfFolder, WhatIsMissingUnknownOrOfAnotherShapeOrTypeIsNamed) {
  const auto refused = [&](const std::function<void(std::vector<MadeTensor>&)>& change) {
    std::vector<MadeTensor> tensors = made_.tensors();
    change(tensors);
    made_.write(folder(), tensors);
    return error();
  };
  EXPECT_THAT(refused([](auto& t) { drop(t, "transformer.h.1.mlp.c_fc.bias"); }),
              HasSubstr("1 tensors are missing (transformer.h.1.mlp.c_fc.bias)"));
  EXPECT_THAT(refused([](auto& t) { drop(t, kTokenEmbedding); }), HasSubstr(kTokenEmbedding));
  EXPECT_THAT(refused([](auto& t) {
                t.push_back({"transformer.h.2.ln_1.bias", "F32", {1}, "abcd"});
              }),
              HasSubstr("1 are not of such a model (\"transformer.h.2.ln_1.bias\")"));
  EXPECT_THAT(refused([](auto& t) { t.push_back({"h.7.attn.bias", "U8", {1}, "a"}); }), HasSubstr("\"h.7.attn.bias\""));
  EXPECT_THAT(refused([](auto& t) {
                t.push_back({"wte.weight", "F32", {1}, "abcd"});
              }),
              AllOf(HasSubstr("twice"), HasSubstr("\"wte.weight\"")));
  EXPECT_THAT(refused([](auto& t) {
                named(t, "transformer.wpe.weight").shape = {8, 6};
              }),
              HasSubstr("\"transformer.wpe.weight\" as [8, 6], expected [6, 8]"));
  EXPECT_THAT(refused([](auto& t) {
                named(t, "transformer.h.0.attn.c_attn.weight").shape = {24, 8};
              }),
              HasSubstr("as [24, 8], expected [8, 24] by its config.json (it must be transposed, [in, out])"));
  EXPECT_THAT(refused([](auto& t) { named(t, "transformer.ln_f.bias").dtype = "I32"; }),
              HasSubstr("\"transformer.ln_f.bias\" of type I32"));
}

TEST_F(HfFolder, SeveralFilesAreOneModelByTheirIndex) {
  const std::vector<MadeTensor> tensors = made_.tensors(/*prefix=*/false);
  std::vector<MadeTensor> parts[2];
  std::string map;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    parts[i % 2].push_back(tensors[i]);
    map += (map.empty() ? "\"" : ", \"") + tensors[i].name + "\": \"part-" + std::to_string(i % 2) + ".safetensors\"";
  }
  const auto write = [&](const std::string& weight_map) {
    made_.write(folder(), {});
    std::filesystem::remove(folder() / "model.safetensors");
    for (int i = 0; i < 2; ++i)
      write_bytes(folder() / ("part-" + std::to_string(i) + ".safetensors"), safetensors_bytes(parts[i]));
    write_bytes(folder() / "model.safetensors.index.json",
                R"({"metadata": {"total_size": 1}, "weight_map": {)" + weight_map + "}}");
  };
  write(map);
  EXPECT_TRUE(is_hf_model(folder()));
  HfModel model(folder());
  expect_values(model);

  write(map + R"(, "more": "part-0.safetensors")");
  EXPECT_THAT(error(), HasSubstr("has no tensor \"more\" in part-0.safetensors"));
  write(map + R"(, "more": "../part-0.safetensors")");
  EXPECT_THAT(error(), HasSubstr("no name of a file beside it"));
  write(map + R"(, "more": "gone.safetensors")");
  EXPECT_THAT(error(), HasSubstr("gone.safetensors cannot be opened"));
  parts[1].push_back({"lost", "F32", {1}, "abcd"});
  write(map);
  EXPECT_THAT(error(), HasSubstr("\"lost\" in part-1.safetensors, which the index does not place there"));
  parts[1].back() = parts[0][0];
  write(map);
  EXPECT_THAT(error(), HasSubstr("\"wte.weight\" in part-1.safetensors, which the index does not place there"));
}

TEST_F(HfFolder, AFolderWithoutAModelSaysWhatIsExpected) {
  EXPECT_THAT(error(), HasSubstr("is no folder"));
  std::filesystem::create_directories(folder());
  EXPECT_FALSE(is_hf_model(folder()));
  EXPECT_THAT(error(), HasSubstr("neither model.safetensors nor"));
  write_bytes(folder() / "pytorch_model.bin", "PK");
  EXPECT_THAT(error(), HasSubstr("save_pretrained"));
  made_.write(folder(), made_.tensors());
  std::filesystem::remove(folder() / "config.json");
  EXPECT_THAT(error(), HasSubstr("has no config.json"));
}

TEST(Gpt2Tensors, MaskBuffersAreKnownByNameInBlocksThatThereAre) {
  const Gpt2Config config = TinyGpt2::sizes();
  EXPECT_TRUE(is_mask_buffer("h.0.attn.bias", config));
  EXPECT_TRUE(is_mask_buffer("transformer.h.1.attn.masked_bias", config));
  for (const char* name : {"h.2.attn.bias", "h.attn.bias", "h.1.attn.c_attn.bias", "h.x.attn.bias", "attn.bias", "h.",
                           "h.99999999999999999999.attn.bias", "h.-1.attn.bias", "h.1.attn.bias.x"})
    EXPECT_FALSE(is_mask_buffer(name, config)) << name;
}

}  // namespace
}  // namespace qat
