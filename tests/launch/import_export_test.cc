// Models of other programs in and out, as a user moves them: import, eval, model.init_from, export.
#include <map>

#include "src/base/json.h"
#include "src/checkpoint/reader.h"
#include "src/export/safetensors_file.h"
#include "tests/launch/cli_fixture.h"
#include "tests/src/export/model_files.h"

namespace qat::cli {
namespace {

constexpr const char* kShort = "--set train.steps=4 --set precision.cycles=1 --set eval.max_tokens=300 ";

class ImportExport : public Cli {
 protected:
  // A GPT-2 that knows bytes, in folder `name`.
  std::string write_model(const std::string& name) const {
    const TinyGpt2 made = bytes_model();
    made.write(root_ / name, made.tensors());
    return (root_ / name).string();
  }
  static TinyGpt2 bytes_model() {
    TinyGpt2 made;
    made.config.n_embd = 16;
    made.config.n_positions = 32;
    made.config.vocab_size = 257;
    made.config_json =
        R"({"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 257})";
    return made;
  }
  std::string at(const std::string& name) const { return quote((root_ / name).string()); }
  Outcome command(const std::string& arguments) const { return shell(program() + " " + arguments); }
  void expect_ok(const std::string& arguments) const {
    const Outcome got = command(arguments);
    ASSERT_EQ(got.exit_code, 0) << arguments << "\n" << got.text;
  }
  // By name: type, shape and bytes.
  std::map<std::string, std::string> tensors(const fs::path& file) const {
    const SafetensorsFile opened(root_ / file);
    const std::string bytes = content(root_ / file);
    std::int64_t all = 0;
    for (const StoredTensor& tensor : opened.tensors()) all = std::max(all, tensor.end);
    std::map<std::string, std::string> out;
    for (const StoredTensor& tensor : opened.tensors())
      out[tensor.name] = tensor.dtype + list_text(tensor.shape) +
                         bytes.substr(bytes.size() - static_cast<std::size_t>(all - tensor.begin),
                                      static_cast<std::size_t>(tensor.end - tensor.begin));
    return out;
  }
  // The evaluation's rows at some widths.
  std::vector<std::string> scores(const std::string& checkpoint, const std::string& more) const {
    const Outcome got = command("eval --checkpoint " + at(checkpoint) +
                                " --set data.sequence_length=32 --set eval.max_tokens=600 " + more);
    EXPECT_EQ(got.exit_code, 0) << got.text;
    std::vector<std::string> rows;
    std::istringstream lines(got.text);
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with("|")) rows.push_back(line.substr(0, line.find("KiB")));
    EXPECT_GE(rows.size(), 2U) << got.text;
    return rows;
  }
  // NLL a token in the row of the only width.
  double nll(const std::string& checkpoint, const std::string& more) const {
    const Outcome got = command("eval --checkpoint " + at(checkpoint) + " --output " + at("report") +
                                " --set data.sequence_length=32 --set eval.max_tokens=600 " + more);
    EXPECT_EQ(got.exit_code, 0) << got.text;
    const std::string report = content(root_ / "report/report.json"), key = "\"nll_per_token\": ";
    const std::size_t found = report.find(key);
    EXPECT_NE(found, report.npos) << report;
    return found == report.npos ? 0 : std::stod(report.substr(found + key.size()));
  }
  std::string from(const std::string& name) const {
    return std::string(kShort) + "--set model.init=checkpoint --set model.init_from=" + at(name) +
           " --set model.n_embd=16 --set model.n_positions=32 ";
  }
};

TEST_F(ImportExport, InAndOutAgainIsTheSameBytesOfEveryTensor) {
  const std::string model = quote(write_model("hf"));
  expect_ok("import " + model + " -o " + at("in"));
  expect_ok("export --checkpoint " + at("in") + " -o " + at("out"));
  const auto before = tensors("hf/model.safetensors");
  EXPECT_EQ(before.size(), 28U);
  EXPECT_EQ(tensors("out/model.safetensors"), before);
  // Once more, from what was written, and in sixteen bits.
  for (const char* dtype : {"bfloat16", "float16"}) {
    const std::string narrow = std::string("narrow ") + dtype, in = std::string("in ") + dtype,
                      out = std::string("out ") + dtype;
    expect_ok("export --checkpoint " + at("in") + " -o " + at(narrow) + " --dtype " + dtype);
    EXPECT_LT(fs::file_size(root_ / narrow / "model.safetensors"),
              fs::file_size(root_ / "out/model.safetensors") * 2 / 3);
    expect_ok("import " + at(narrow) + " -o " + at(in));
    expect_ok("export --checkpoint " + at(in) + " -o " + at(out) + " --dtype " + dtype);
    EXPECT_EQ(content(root_ / out / "model.safetensors"), content(root_ / narrow / "model.safetensors"));
  }
}

// Of single characters, for example. The default of data.val, bytes, is not for such a model.
TEST_F(ImportExport, AModelOfFewIdsComesInAndIsScoredOnItsOwnTokens) {
  TinyGpt2 made = bytes_model();
  made.config.vocab_size = 65;
  made.config_json.replace(made.config_json.find("257"), 3, "65");
  fs::create_directories(root_ / "hf");
  made.write(root_ / "hf", made.tensors());
  expect_ok("import " + at("hf") + " -o " + at("in"));
  const Outcome none = command("eval --checkpoint " + at("in"));
  EXPECT_EQ(none.exit_code, 3) << none.text;
  EXPECT_THAT(none.text, HasSubstr("name token files of this model by --set data.val="));
  std::string shard(1024 + 2 * 400, '\0');
  const std::array<std::int32_t, 3> header = {20240520, 1, 400};
  shard.replace(0, sizeof header, reinterpret_cast<const char*>(header.data()), sizeof header);
  const std::string file = write("few.bin", shard);
  expect_ok("eval --checkpoint " + at("in") + " --set data.val=" + quote("[\"" + file + "\"]"));
}

TEST_F(ImportExport, AnUntiedHeadGoesInAndOut) {
  const TinyGpt2 made = bytes_model();
  auto all = made.tensors();
  all.push_back({kLmHead, "F32", {257, 16}, bytes_of_floats(TinyGpt2::values("head", 257 * 16))});
  made.write(root_ / "hf", all);
  const Outcome in = command("import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(in.exit_code, 0) << in.text;
  EXPECT_THAT(in.text,
              AllOf(HasSubstr("warning"), HasSubstr("lm_head.weight differs"), HasSubstr("\"tie_lm_head\": false")));
  expect_ok("export --checkpoint " + at("in") + " -o " + at("out"));
  EXPECT_EQ(tensors("out/model.safetensors"), tensors("hf/model.safetensors"));
  EXPECT_THAT(content(root_ / "out/config.json"), HasSubstr("\"tie_word_embeddings\": false"));
}

TEST_F(ImportExport, AnImportedModelScoresAsTheSameWeightsDo) {
  expect_ok(tiny("run", std::string(kShort) + "--set lora.rank=0"));
  expect_ok("export --checkpoint " + at("run") + " -o " + at("hf"));
  expect_ok("import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(scores("in", "--bits 32,8,4"), scores("run", "--bits 32,8,4"));
}

// Activations stay as they are in this run, so that its 4 bits are nothing but weights.
TEST_F(ImportExport, WeightsAndAdaptersMergedAtAWidthScoreAsTheModelDoesThere) {
  for (const char* quantize : {"true", "false"}) {
    const std::string run = std::string("run ") + quantize, hf = std::string("hf ") + quantize,
                      in = std::string("in ") + quantize;
    expect_ok(tiny(run,
                   "--set quant.activation_bits=32 --set model.quantize_lm_head=true --set train.steps=12 --set "
                   "precision.cycles=1 --set eval.max_tokens=300 --set quant.overrides='[{\"layers\": "
                   "\"h.0.attn.c_proj\", \"weight_bits\": 3}]' --set lora.quantize=" +
                       std::string(quantize)));
    expect_ok("export --checkpoint " + at(run) + " -o " + at(hf) + " --bits 4");
    EXPECT_THAT(content(root_ / hf / "config.json"), HasSubstr("\"tie_word_embeddings\": false"));
    expect_ok("import " + at(hf) + " -o " + at(in));
    const double model = nll(run, "--bits 4");
    EXPECT_NEAR(nll(in, "--bits 32"), model, 2e-6 * model);
    EXPECT_GT(std::abs(nll(run, "--bits 32") - model), 1e-4 * model) << "the adapters and the width make a difference";
  }
}

// Every layer at its own width, with that width's adapter and norms; activations are nobody's, as above.
TEST_F(ImportExport, AMapsWeightsAndAdaptersMergedScoreAsTheModelDoesThere) {
  for (const char* slots : {"shared", "per_width"}) {
    const std::string run = std::string("run ") + slots, hf = std::string("hf ") + slots,
                      in = std::string("in ") + slots, map = "'mixed: 8,4,3,8,4,32,8,3,4'";
    expect_ok(tiny(run, std::string("--set quant.activation_bits=32 --set model.quantize_lm_head=true --set "
                                    "train.steps=12 --set quant.widths=[3,4,8] --set precision.kind=cyclic --set "
                                    "precision.switch_interval=1 --set eval.max_tokens=300 --set lora.slots=") +
                            slots + " --set model.norm_slots=" + slots));
    expect_ok("export --checkpoint " + at(run) + " -o " + at(hf) + " --bitmap " + map);
    expect_ok("import " + at(hf) + " -o " + at(in));
    const double model = nll(run, "--bitmap " + map);
    EXPECT_NEAR(nll(in, "--bits 32"), model, 2e-6 * model);
    EXPECT_GT(std::abs(nll(run, "--bits 8") - model), 1e-4 * model) << "the map makes a difference";

    const Value said = parse_json(content(root_ / hf / "model.precision.json"), "model.precision.json");
    EXPECT_EQ(said.at("precision").as_string(), "mixed");
    std::vector<std::string> layers;
    for (const Value& layer : said.at("layers").as_array())
      layers.push_back(layer.at("layer").as_string() + " " + to_json(layer.at("weight_bits")) + " " +
                       to_json(layer.at("activation_bits")));
    EXPECT_THAT(layers, testing::ElementsAre("h.0.attn.c_attn 8 32", "h.0.attn.c_proj 4 32", "h.0.mlp.c_fc 3 32",
                                             "h.0.mlp.c_proj 8 32", "h.1.attn.c_attn 4 32", "h.1.attn.c_proj 32 32",
                                             "h.1.mlp.c_fc 8 32", "h.1.mlp.c_proj 3 32", "lm_head 4 32"));
    EXPECT_EQ(to_json(said.at("kv_bits")), "[32,32]");
  }
}

TEST_F(ImportExport, MapsThatCannotBeExportedAreRefusedAndAreNotLeftBehind) {
  expect_ok(tiny("run", std::string(kShort) + "--set quant.widths=[3,4,8] --set lora.slots=per_width"));
  const std::string out = "export --checkpoint " + at("run") + " -o " + at("out");
  for (const auto& [more, why] : std::map<std::string, std::string>{
           {" --bitmap 8,4", "--bitmap is \"8,4\": must list 8 widths"},
           {" --bitmap stripe8x4", "--bitmap is \"stripe8x4\": must name two widths"},
           {" --bitmap 'stripe8&5'", "--bitmap is 5: the model has adapters or layer norms of its own"},
           {" --config-name 'stripe8&4'", "--config-name is \"stripe8&4\": must be one of"},
           {" --config-name W9A9KV9", "--config-name is 9: the model has adapters or layer norms of its own"},
           {" --config-name W4A8KV8 --bits 4", "give one of them"},
           {" --bitmap 4 --config-name W4A8KV8", "give one of them"}}) {
    const Outcome got = command(out + more);
    EXPECT_EQ(got.exit_code, 2) << more << got.text;
    EXPECT_THAT(got.text, HasSubstr(why));
  }
  EXPECT_FALSE(fs::exists(root_ / "out"));
  const Outcome named = command(out + " --config-name W4A8KV8 --part adapter");
  EXPECT_EQ(named.exit_code, 0) << named.text;
  EXPECT_THAT(named.text, AllOf(HasSubstr("values of map W4A8KV8"), HasSubstr("--part base --bitmap 'W4A8KV8'")));
  EXPECT_THAT(content(root_ / "out/adapter_model.precision.json"), HasSubstr("\"kv_bits\": [8, 8]"));
  // What it says does not outlive the file that it is about.
  expect_ok(out + " --part base --bits 4");
  EXPECT_TRUE(fs::exists(root_ / "out/model.precision.json"));
  expect_ok(out + " --part base --overwrite");
  EXPECT_FALSE(fs::exists(root_ / "out/model.precision.json"));
  EXPECT_TRUE(fs::exists(root_ / "out/adapter_model.precision.json"));
}

TEST_F(ImportExport, TheAdapterGoesOutUnderPeftsNames) {
  expect_ok(tiny("run", std::string(kShort)));
  expect_ok("export --checkpoint " + at("run") + " -o " + at("out") + " --part adapter --base-model my/base");
  const auto written = tensors("out/adapter_model.safetensors");
  EXPECT_EQ(written.size(), 16U);
  const CheckpointReader reader = CheckpointReader::open(root_ / "run/checkpoints/step_00000004");
  for (const auto& [name, bytes] : written) {
    const std::string prefix = "base_model.model.", own = "/model/" + name.substr(prefix.size());
    ASSERT_TRUE(name.starts_with(prefix)) << name;
    ASSERT_TRUE(reader.has_tensor(own)) << name;
    EXPECT_EQ(bytes, "F32" + list_text(reader.tensor_info(own).shape) + bytes_of_floats(reader.read_tensor<float>(own)))
        << name;
  }
  EXPECT_THAT(content(root_ / "out/adapter_config.json"),
              AllOf(HasSubstr("\"lora_alpha\": 8"), HasSubstr("\"r\": 4"), HasSubstr("\"fan_in_fan_out\": true"),
                    HasSubstr("my/base")));
  // At a width they are that width's values, and the base beside them is that, too.
  const Outcome narrow = command("export --checkpoint " + at("run") + " -o " + at("out4") + " --part adapter --bits 4");
  EXPECT_EQ(narrow.exit_code, 0) << narrow.text;
  EXPECT_THAT(narrow.text, AllOf(HasSubstr("values of 4 bits"), HasSubstr("--part base --bits 4")));
  EXPECT_NE(tensors("out4/adapter_model.safetensors"), written);
}

TEST_F(ImportExport, ARunStartsFromTheFolderAsFromTheImportedCheckpoint) {
  const std::string model = quote(write_model("hf"));
  expect_ok("import " + model + " -o " + at("in"));
  const Outcome direct = shell(on_ranks(2) + tiny("direct", from("hf"))),
                imported = shell(program() + tiny("imported", from("in")));
  ASSERT_EQ(direct.exit_code, 0) << direct.text;
  ASSERT_EQ(imported.exit_code, 0) << imported.text;
  EXPECT_THAT(direct.text, HasSubstr("initial parameters from"));
  EXPECT_EQ(losses("direct"), losses("imported"));
  EXPECT_EQ(losses("direct").size(), 4U);
  for (const char* name : {"hf", "in"}) {
    const Outcome other = shell(on_ranks(2) + tiny("other", from(name) + "--set model.n_head=4"));
    EXPECT_EQ(other.exit_code, 4) << other.text;
    EXPECT_EQ(count(other.text, "model.n_head: 2 in the "), 1U) << other.text;
  }
  // It has no optimizer to go on with.
  const Outcome resumed = shell(program() + tiny("resumed", from("in") + "--set run.resume=" + at("in/step_00000000")));
  EXPECT_EQ(resumed.exit_code, 4) << resumed.text;
  EXPECT_THAT(resumed.text, AllOf(HasSubstr("no optimizer state"), HasSubstr("model.init_from")));
}

TEST_F(ImportExport, NothingIsReplacedUnlessItIsAskedFor) {
  const std::string model = quote(write_model("hf"));
  const std::string in = "import " + model + " -o " + at("in"),
                    out = "export --checkpoint " + at("in") + " -o " + at("out");
  expect_ok(in);
  const std::string manifest = content(root_ / "in/step_00000000/manifest.json");
  const Outcome again = command(in);
  EXPECT_EQ(again.exit_code, 2) << again.text;
  EXPECT_THAT(again.text, AllOf(HasSubstr("--output"), HasSubstr("--overwrite")));
  expect_ok(in + " --overwrite");
  EXPECT_EQ(content(root_ / "in/step_00000000/manifest.json"), manifest);

  fs::create_directories(root_ / "out");
  write("out/vocab.json", "{}");
  expect_ok(out);
  write("out/config.json", "mine");
  const Outcome exported = command(out);
  EXPECT_EQ(exported.exit_code, 2) << exported.text;
  EXPECT_THAT(exported.text, HasSubstr("which has config.json already"));
  EXPECT_EQ(content(root_ / "out/config.json"), "mine");
  expect_ok(out + " --overwrite");
  EXPECT_THAT(content(root_ / "out/config.json"), HasSubstr("gpt2"));
  EXPECT_EQ(content(root_ / "out/vocab.json"), "{}");

  // Not into another's folder, whatever is asked for, and the folder is the first thing.
  expect_ok(tiny("run", kShort));
  const Outcome run = command("import " + model + " -o " + at("run") + " --overwrite");
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_EQ(checkpoints("run"), "step_00000004 ");
  const Outcome file = command("export --checkpoint " + at("in") + " -o " + at("out/config.json/x"));
  EXPECT_EQ(file.exit_code, 2) << file.text;
}

TEST_F(ImportExport, AFaultyModelIsRefusedInOneMessageAndLeavesNothing) {
  TinyGpt2 made = bytes_model();
  auto all = made.tensors();
  all.pop_back();
  made.write(root_ / "hf", all);
  const Outcome missing = shell(on_ranks(2) + " import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(missing.exit_code, 3) << missing.text;
  EXPECT_EQ(count(missing.text, "1 tensors are missing (transformer.ln_f.bias)"), 1U) << missing.text;
  EXPECT_FALSE(fs::exists(root_ / "in"));

  write_model("hf");
  fs::resize_file(root_ / "hf/model.safetensors", fs::file_size(root_ / "hf/model.safetensors") - 1);
  const Outcome cut = command("import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(cut.exit_code, 3) << cut.text;
  EXPECT_THAT(cut.text, HasSubstr("is the copy complete?"));

  auto infinite = made.tensors();
  const float infinity = std::numeric_limits<float>::infinity();
  std::memcpy(infinite[0].bytes.data(), &infinity, sizeof infinity);
  made.write(root_ / "hf", infinite);
  const Outcome bad = command("import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(bad.exit_code, 3) << bad.text;
  EXPECT_THAT(bad.text, HasSubstr("\"transformer.wte.weight\": element 0 is inf"));
  EXPECT_TRUE(fs::is_empty(root_ / "in"));

  made.config_json.insert(made.config_json.size() - 1, R"(, "activation_function": "relu")");
  made.write(root_ / "hf", made.tensors());
  const Outcome other = command("import " + at("hf") + " -o " + at("in"));
  EXPECT_EQ(other.exit_code, 3) << other.text;
  EXPECT_THAT(other.text, HasSubstr("activation_function is \"relu\", expected \"gelu_new\""));
}

TEST_F(ImportExport, UsageIsSaidWhereItIsWrong) {
  write_model("hf");
  const Outcome eval = command("eval --checkpoint " + at("hf"));
  EXPECT_EQ(eval.exit_code, 2) << eval.text;
  EXPECT_THAT(eval.text, HasSubstr("`qat_dist import`"));
  expect_ok("import " + at("hf") + " -o " + at("in"));
  const Outcome none = command("export --checkpoint " + at("in") + " -o " + at("out") + " --part adapter");
  EXPECT_EQ(none.exit_code, 2) << none.text;
  EXPECT_THAT(none.text, HasSubstr("no adapters (lora.rank is 0)"));
  EXPECT_EQ(command("export --checkpoint " + at("in") + " -o " + at("out") + " --part half").exit_code, 2);
  EXPECT_EQ(command("export --checkpoint " + at("in") + " -o " + at("out") + " --bits 1").exit_code, 2);
  EXPECT_EQ(command("export --checkpoint " + at("none") + " -o " + at("out")).exit_code, 4);
  EXPECT_FALSE(fs::exists(root_ / "out"));
  expect_ok(tiny("run", kShort));
  const Outcome width = command("export --checkpoint " + at("run") + " -o " + at("out"));
  EXPECT_EQ(width.exit_code, 2) << width.text;
  EXPECT_THAT(width.text, HasSubstr("--bits is missing"));
}

}  // namespace
}  // namespace qat::cli
