// A checkpoint goes into the model that it was made of, and into no other, through whichever door.
#include "src/train/structure_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "kernels/common/error.h"
#include "src/train/run_state.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr LoadFor kDoors[] = {LoadFor::kResume, LoadFor::kEvaluation, LoadFor::kInitialValues};

std::string config(const std::string& model, const std::string& lora = R"("rank": 4, "alpha": 8.0)",
                   const std::string& quant = "") {
  return R"({"model": {)" + model + R"(}, "lora": {)" + lora + R"(}, "quant": {)" + quant + "}}";
}
const std::string kModel =
    R"("n_layer": 2, "n_head": 2, "tie_lm_head": true, "quantize_lm_head": false, "freeze_base": false)";

// A tiny model's sizes.
struct Sizes {
  Gpt2Config config = TinyModel().config;
  LoraConfig lora = TinyModel().lora;
  QuantConfig quant = TinyModel().quant;

  TinyModel model() const {
    TinyModel out;
    out.config = config, out.lora = lora, out.quant = quant;
    return out;
  }
};

class StructureCheck : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("qat structure " + std::to_string(getpid()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A checkpoint of such a model, made with this configuration.
  CheckpointReader saved(const Sizes& sizes, const std::string& config_json = config(kModel)) {
    TinyModel spec = sizes.model();
    TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
    return CheckpointReader::open(
        save_run(root_, {.step = 1, .config_json = config_json}, rank.model(), rank.runner().optimizer(), *comm_));
  }
  static std::string error_of(const CheckpointReader& reader, const std::string& config_json, LoadFor purpose,
                              const ParameterStore* parameters = nullptr) {
    try {
      (void)check_structure(reader, config_json, parameters, purpose);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      return error.what();
    }
    return "";
  }
  // What the check says of a checkpoint of `from` for a model of `to`, whose configurations say nothing of it.
  std::string tensors_error(const Sizes& from, const Sizes& to, LoadFor purpose) {
    const CheckpointReader reader = saved(from, "{}");
    TinyModel model = to.model();
    model.build();
    return error_of(reader, "{}", purpose, &model.model->parameters());
  }

  fs::path root_;
  TokenSource tokens_ = test::tiny_tokens();
  std::unique_ptr<dist::Communicator> comm_ = dist::make_single_comm();
};

TEST_F(StructureCheck, TheSameModelPassesEveryDoorWhateverElseChanges) {
  const CheckpointReader reader = saved({}, config(kModel, R"("rank": 4, "alpha": 8.0)", R"("widths": [4, 8])"));
  TinyModel same = Sizes().model();
  same.build();
  for (const LoadFor door : kDoors) {
    EXPECT_THAT(check_structure(reader, config(kModel, R"("rank": 4, "alpha": 8.0)", R"("widths": [2])"),
                                &same.model->parameters(), door),
                IsEmpty());
  }
}

TEST_F(StructureCheck, AnotherBaseIsRefusedAtEveryDoorWithAllThatDiffers) {
  const CheckpointReader reader = saved({});
  const std::string other =
      config(R"("n_layer": 3, "n_head": 4, "tie_lm_head": false, "quantize_lm_head": false, "freeze_base": false)");
  for (const LoadFor door : kDoors) {
    EXPECT_THAT(error_of(reader, other, door),
                AllOf(HasSubstr(reader.info().folder.string()), HasSubstr("model.n_layer: 2 in the checkpoint, 3 now"),
                      HasSubstr("model.n_head: 2 in the checkpoint, 4 now"),
                      HasSubstr("model.tie_lm_head: true in the checkpoint, false now")));
  }
  EXPECT_THAT(error_of(reader, other, LoadFor::kResume), HasSubstr("another run.dir"));
  EXPECT_THAT(error_of(reader, other, LoadFor::kEvaluation), HasSubstr("--set"));
  EXPECT_THAT(error_of(reader, other, LoadFor::kInitialValues), HasSubstr("model.init_from"));
}

TEST_F(StructureCheck, WhatBelongsToTheRunMattersOnlyToTheDoorsThatNeedIt) {
  const CheckpointReader reader = saved({});
  const auto with = [](const std::string& key, const std::string& before, const std::string& after) {
    std::string model = kModel;
    const std::string old = "\"" + key + "\": " + before;
    return config(model.replace(model.find(old), old.size(), "\"" + key + "\": " + after));
  };
  const std::string head = with("quantize_lm_head", "false", "true"), frozen = with("freeze_base", "false", "true");
  EXPECT_THAT(error_of(reader, head, LoadFor::kResume), HasSubstr("model.quantize_lm_head"));
  EXPECT_THAT(error_of(reader, head, LoadFor::kEvaluation), HasSubstr("model.quantize_lm_head"));
  EXPECT_THAT(check_structure(reader, head, nullptr, LoadFor::kInitialValues),
              ElementsAre(HasSubstr("model.quantize_lm_head: false in the checkpoint, true now")));
  EXPECT_THAT(error_of(reader, frozen, LoadFor::kResume), HasSubstr("model.freeze_base"));
  EXPECT_EQ(error_of(reader, frozen, LoadFor::kEvaluation), "");
  EXPECT_EQ(error_of(reader, frozen, LoadFor::kInitialValues), "");
}

TEST_F(StructureCheck, AdaptersMayBeginOrEndWithANewRunButNotChangeTheirRank) {
  const CheckpointReader reader = saved({});
  const std::string none = config(kModel, R"("rank": 0, "alpha": 8.0)"),
                    wider = config(kModel, R"("rank": 8, "alpha": 8.0)"),
                    scaled = config(kModel, R"("rank": 4, "alpha": 16.0)");
  EXPECT_EQ(error_of(reader, none, LoadFor::kInitialValues), "");
  EXPECT_THAT(error_of(reader, wider, LoadFor::kInitialValues), HasSubstr("lora.rank: 4 in the checkpoint, 8 now"));
  for (const LoadFor door : {LoadFor::kResume, LoadFor::kEvaluation}) {
    EXPECT_THAT(error_of(reader, none, door), HasSubstr("lora.rank: 4 in the checkpoint, 0 now"));
    EXPECT_THAT(error_of(reader, wider, door), HasSubstr("lora.rank: 4 in the checkpoint, 8 now"));
  }
  // The same adapters with another weight are other numbers.
  for (const LoadFor door : {LoadFor::kEvaluation, LoadFor::kInitialValues})
    EXPECT_THAT(check_structure(reader, scaled, nullptr, door), ElementsAre(HasSubstr("lora.alpha: 8.0")));
}

TEST_F(StructureCheck, RanksOfSingleWidthsAreTheirs) {
  const auto lora = [](const std::string& own) { return config(kModel, R"("rank": 4, "alpha": 8.0)" + own); };
  const std::string own =
      R"(, "rank_rule": "fixed", "input": "quantized", "per_width": [{"bits": 2, "rank": 8, "alpha": null}]})";
  const std::string with = lora(own.substr(0, own.size() - 1));
  const CheckpointReader reader = saved({}, with), older = saved({}, lora(""));
  const std::string other =
                        lora(R"(, "rank_rule": "fixed", "input": "quantized", "per_width": [{"bits": 2, "rank": 9}])"),
                    none = lora(R"(, "rank_rule": "fixed", "input": "quantized", "per_width": [])"),
                    by_width = lora(R"(, "rank_rule": "by_width", "input": "quantized", "per_width": [])"),
                    scaled = lora(R"(, "rank_rule": "fixed", "input": "raw", "per_width": [{"bits": 2, "rank": 8,
                                  "alpha": 3.0, "quantize": false}])");
  for (const LoadFor door : kDoors) {
    EXPECT_EQ(error_of(reader, with, door), "");
    if (door == LoadFor::kInitialValues) {
      for (const std::string& one : {other, none, by_width}) EXPECT_EQ(error_of(reader, one, door), "");
    } else {
      EXPECT_THAT(error_of(reader, other, door), HasSubstr("lora.per_width: ["));
      EXPECT_THAT(error_of(reader, none, door), HasSubstr("lora.per_width"));
      EXPECT_THAT(error_of(older, with, door), HasSubstr("lora.per_width: (not there) in the checkpoint"));
      EXPECT_THAT(error_of(older, by_width, door), HasSubstr("lora.rank_rule"));
    }
    // Keys that its program did not have, at their defaults.
    EXPECT_EQ(error_of(older, none, door), "");
    EXPECT_EQ(error_of(reader, scaled, door), "");
  }
  EXPECT_THAT(check_structure(reader, scaled, nullptr, LoadFor::kEvaluation),
              ElementsAre(HasSubstr("lora.input"), HasSubstr("lora.per_width")));
  EXPECT_THAT(check_structure(older, none, nullptr, LoadFor::kEvaluation), IsEmpty());
  // Where the checkpoint has an adapter of that name, its shape must fit.
  Sizes narrow, wide, elsewhere;
  for (Sizes* one : {&narrow, &wide, &elsewhere}) one->lora.slots = Slots::kPerWidth;
  wide.lora.per_width = {{.bits = 2, .rank = 8}};
  elsewhere.lora.rank = 0, elsewhere.lora.per_width = {{.bits = 5, .rank = 9}};
  for (const LoadFor door : kDoors)
    EXPECT_THAT(tensors_error(narrow, wide, door),
                HasSubstr("lora_A.w2.weight: [4, 16] in the checkpoint, [8, 16] now"));
  EXPECT_EQ(tensors_error({}, elsewhere, LoadFor::kInitialValues), "");
}

TEST_F(StructureCheck, TensorsThatTheConfigurationsDoNotExplainAreNamed) {
  Sizes deeper, longer, untied;
  deeper.config.n_layer = 3;
  longer.config.n_positions = 24;
  untied.config.tie_lm_head = false;
  for (const LoadFor door : kDoors) {
    EXPECT_THAT(tensors_error({}, deeper, door),
                AllOf(HasSubstr("tensor transformer.h.2.ln_1.weight: (not there) in the checkpoint, [16] now"),
                      HasSubstr("more")));
    EXPECT_THAT(tensors_error(deeper, {}, door), AllOf(HasSubstr("tensor transformer.h.2."),
                                                       HasSubstr("(not there) now"), HasSubstr("in the checkpoint")));
    EXPECT_THAT(
        tensors_error({}, longer, door),
        AllOf(HasSubstr("transformer.wpe.weight: [12, 16] in the checkpoint, [24, 16] now"), Not(HasSubstr("more"))));
    EXPECT_THAT(tensors_error({}, untied, door), HasSubstr("lm_head.weight"));
    EXPECT_THAT(tensors_error(untied, {}, door), HasSubstr("lm_head.weight"));
  }
}

TEST_F(StructureCheck, NewAndLeftOutAdaptersAreSaid) {
  Sizes with, without;
  without.lora.rank = 0;
  for (const LoadFor door : {LoadFor::kResume, LoadFor::kEvaluation}) {
    EXPECT_THAT(tensors_error(without, with, door), HasSubstr("lora_A.weight: (not there) in the checkpoint"));
    EXPECT_THAT(tensors_error(with, without, door), HasSubstr("(not there) now"));
  }
  const CheckpointReader bare = saved(without, "{}");
  TinyModel adapted = with.model(), plain = without.model();
  adapted.build(), plain.build();
  EXPECT_THAT(check_structure(bare, "{}", &adapted.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("16 tensors of adapters or learned ranges are not in the checkpoint")));
  const CheckpointReader full = saved(with, "{}");
  EXPECT_THAT(check_structure(full, "{}", &plain.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("16 tensors of the checkpoint are left out")));
}

TEST_F(StructureCheck, NewAndLeftOutLearnedRangesAreSaid) {
  Sizes learned, measured;
  learned.quant.widths = measured.quant.widths = {4, 32};
  learned.quant.weight = {.method = QuantizerKind::kLsq, .granularity = Granularity::kTensor};
  for (const LoadFor door : {LoadFor::kResume, LoadFor::kEvaluation}) {
    EXPECT_THAT(tensors_error(measured, learned, door), HasSubstr("weight_step.w4: (not there) in the checkpoint"));
    EXPECT_THAT(tensors_error(learned, measured, door), HasSubstr("(not there) now"));
  }
  TinyModel with = learned.model(), without = measured.model();
  with.build(), without.build();
  const CheckpointReader bare = saved(measured, "{}"), full = saved(learned, "{}");
  EXPECT_THAT(check_structure(bare, "{}", &with.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("8 tensors of adapters or learned ranges are not in the checkpoint")));
  EXPECT_THAT(check_structure(full, "{}", &without.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("8 tensors of the checkpoint are left out")));
}

TEST_F(StructureCheck, ANewRunMayHaveAnotherHeadAndNoOtherDoorDoes) {
  const std::string text = config(kModel + R"(, "task": "language_model")"),
                    asking = config(kModel + R"(, "task": "span_qa")");
  Sizes untied, asks;
  untied.config.tie_lm_head = false;
  asks.config.task = ModelTask::kSpanQa;
  const CheckpointReader of_text = saved(untied, text);
  TinyModel to = asks.model(), back = Sizes{}.model();
  to.build(), back.build();
  EXPECT_THAT(check_structure(of_text, asking, &to.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("qa_outputs"), HasSubstr("lm_head.weight")));
  for (const LoadFor door : {LoadFor::kResume, LoadFor::kEvaluation}) {
    try {
      (void)check_structure(of_text, asking, nullptr, door);
      ADD_FAILURE() << "taken as a model of another task";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("model.task: \"language_model\" in the checkpoint, \"span_qa\" now"));
    }
  }
  // Programs before there were tasks had language models.
  const CheckpointReader older = saved(Sizes{}, config(kModel));
  EXPECT_THAT(check_structure(older, text, &back.model->parameters(), LoadFor::kResume), IsEmpty());
  const CheckpointReader of_questions = saved(asks, asking);
  EXPECT_THAT(check_structure(of_questions, text, &back.model->parameters(), LoadFor::kInitialValues),
              ElementsAre(HasSubstr("2 tensors of the checkpoint are left out")));
}

TEST_F(StructureCheck, WidthsOwnParametersStartFromWhatTheCheckpointsWidthsShare) {
  Sizes shared, switchable;
  switchable.lora.slots = switchable.config.norm_slots = Slots::kPerWidth;
  const CheckpointReader reader = saved(shared, "{}");
  for (const LoadFor door : {LoadFor::kResume, LoadFor::kEvaluation})
    EXPECT_THAT(tensors_error(shared, switchable, door), HasSubstr(".w2.weight: (not there) in the checkpoint"));
  TinyModel from = shared.model(), to = switchable.model();
  from.build(), to.build(/*seed=*/17);
  EXPECT_THAT(load_model(&reader, *to.model, *comm_, LoadFor::kInitialValues, "{}"),
              ElementsAre(HasSubstr("tensors of single widths are not in the checkpoint and start as")));
  (void)load_model(&reader, *from.model, *comm_, LoadFor::kInitialValues, "{}");
  const auto values = [](const TinyModel& model, const std::string& name) {
    return model.model->parameters().host_values(model.id_of(name));
  };
  for (const char* width : {"w2", "w7", "w8"}) {
    EXPECT_EQ(values(to, std::string("transformer.h.1.mlp.c_fc.lora_A.") + width + ".weight"),
              values(from, "transformer.h.1.mlp.c_fc.lora_A.weight"));
    EXPECT_EQ(values(to, std::string("transformer.ln_f.") + width + ".bias"), values(from, "transformer.ln_f.bias"));
  }
  EXPECT_EQ(values(to, "transformer.wte.weight"), values(from, "transformer.wte.weight"));
  // And back: the unquantized pass's norms; adapters are new.
  const CheckpointReader apart = saved(switchable, "{}");
  EXPECT_THAT(load_model(&apart, *from.model, *comm_, LoadFor::kInitialValues, "{}"),
              ElementsAre(HasSubstr("16 tensors of adapters or learned ranges are not in the checkpoint"),
                          HasSubstr("are left out")));
}

TEST_F(StructureCheck, RangesFitTheQuantizerThatTheyWereTakenFor) {
  const std::string lora = R"("rank": 4)";
  const auto quant = [&](const std::string& text) { return config(kModel, lora, text); };
  const CheckpointReader reader = saved(
      {},
      quant(R"("widths": [4, 8], "calibration_batches": 10, "activation": {"granularity": "tensor", "range": "x"})"));
  const auto fit = [&](const std::string& text) {
    std::vector<std::string> notes;
    const bool training = ranges_fit(reader, quant(text), notes);
    EXPECT_EQ(notes.empty(), training);
    return std::pair(training, evaluation_ranges_fit(reader, quant(text)));
  };
  using Fit = std::pair<bool, bool>;
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10, "activation": {"granularity": "tensor", "range": "x"})"),
            Fit(true, true));
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 11, "activation": {"granularity": "tensor", "range": "x"})"),
            Fit(true, false));
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10, "activation": {"granularity": "feature", "range": "x"})"),
            Fit(false, false));
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10,
                "activation": {"by_width": [], "granularity": "tensor", "range": "x"})"),
            Fit(true, true));
  // As older programs did, and otherwise.
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10, "calibration_method": "minmax", "running_momentum": 0.9,
                "calibration_percentile": 99.9, "activation": {"granularity": "tensor", "range": "x"})"),
            Fit(true, true));
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10, "calibration_method": "entropy",
                "activation": {"granularity": "tensor", "range": "x"})"),
            Fit(true, false));
  EXPECT_EQ(fit(R"("widths": [2], "calibration_batches": 10, "activation": {"by_width": [{"bits": 2, "method": "log"}],
                "granularity": "tensor", "range": "x"})"),
            Fit(false, false));
}

TEST_F(StructureCheck, AnImportedModelIsEvaluatedAndStartedFromButNotResumed) {
  CheckpointWriter writer = CheckpointWriter::begin(root_, 0);
  save_train_state(writer, {.config_json = config(kModel)});
  const CheckpointReader reader = CheckpointReader::open(writer.commit().folder);
  EXPECT_THAT(error_of(reader, config(kModel), LoadFor::kResume),
              AllOf(HasSubstr("no optimizer state"), HasSubstr("model.init_from")));
  EXPECT_EQ(error_of(reader, config(kModel), LoadFor::kEvaluation), "");
  EXPECT_EQ(error_of(reader, config(kModel), LoadFor::kInitialValues), "");
}

}  // namespace
}  // namespace qat
