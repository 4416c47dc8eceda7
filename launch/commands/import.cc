#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>

#include "launch/command.h"
#include "launch/failure.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/json.h"
#include "src/config/loader.h"
#include "src/config/validate.h"
#include "src/export/import_model.h"
#include "src/train/on_root.h"

namespace qat::launch {
namespace {

struct ImportArguments {
  std::string model;
  std::string output;
  bool overwrite = false;
};

// The configuration that the checkpoint carries: the model's sizes, and defaults; windows as long as the model takes.
LoadResult imported_config(const HfModel& model) {
  const Gpt2Config& sizes = model.config();
  std::vector<std::string> sets = {
      fmt::format("model.n_layer={}", sizes.n_layer),
      fmt::format("model.n_head={}", sizes.n_head),
      fmt::format("model.n_embd={}", sizes.n_embd),
      fmt::format("model.n_positions={}", sizes.n_positions),
      fmt::format("model.vocab_size={}", sizes.vocab_size),
      fmt::format("model.tie_lm_head={}", sizes.tie_lm_head),
      fmt::format("data.sequence_length={}", sizes.n_positions),
      "lora.rank=0",
  };
  // The default, bytes, is not for a vocabulary of fewer ids, such as one of single characters.
  if (sizes.vocab_size < kByteVocabulary)
    for (const char* key : {"data.train", "data.val"})
      sets.push_back(fmt::format("{}=[\"none: name token files of this model by --set {}=...\"]", key, key));
  return load_run_config_text("{}", model.folder().string(), sets);
}

TrainState imported_state(const RunConfig& config) {
  TrainState state;
  state.seed = config.run.seed;
  state.config_json = to_json(config_to_json(config), 2);
  state.config_hash = config_hash(config);
  return state;
}

void report(const HfModel& model, const CheckpointInfo& made, const std::string& output) {
  const Gpt2Config& sizes = model.config();
  std::int64_t parameters = 0;
  for (const Gpt2Tensor& tensor : model.tensors()) parameters += element_count(tensor.shape);
  fmt::print("GPT-2 {} layers x {} wide, {} heads, {} positions, vocabulary {}, head {}: {} parameters\n  {}\n",
             sizes.n_layer, sizes.n_embd, sizes.n_head, sizes.n_positions, sizes.vocab_size,
             sizes.tie_lm_head ? "tied" : "of its own", parameters, made.folder.string());
  fmt::print(
      "In a configuration: \"model\": {{\"init\": \"checkpoint\", \"init_from\": {}, \"n_layer\": {}, \"n_head\": "
      "{}, \"n_embd\": {}, \"n_positions\": {}, \"vocab_size\": {}{}}}\n",
      to_json(output), sizes.n_layer, sizes.n_head, sizes.n_embd, sizes.n_positions, sizes.vocab_size,
      sizes.tie_lm_head ? "" : ", \"tie_lm_head\": false");
}

void import_model(const ImportArguments& arguments) {
  HfModel model(arguments.model);
  const LoadResult loaded = imported_config(model);
  prepare_import_folder(arguments.output, "--output", arguments.overwrite);
  for (const std::string& note : model.notes()) warn(note);
  const CheckpointInfo made = write_imported(model, imported_state(loaded.config), arguments.output);
  report(model, made, arguments.output);
}

}  // namespace

Run add_import(CLI::App& app) {
  auto arguments = std::make_shared<ImportArguments>();
  app.add_option("model", arguments->model,
                 "folder with config.json and model.safetensors, or model.safetensors.index.json and its files")
      ->required();
  app.add_option("-o,--output", arguments->output,
                 "folder for the checkpoint, new or empty: for model.init_from and eval --checkpoint")
      ->required();
  app.add_flag("--overwrite", arguments->overwrite, "replace what an earlier import left in the folder");
  app.footer(
      "Takes a GPT-2 of Hugging Face's transformers: weights in fp32, fp16 or bf16, which become fp32. What this "
      "program\n"
      "would compute otherwise, and tensors that are missing, unknown or of another shape, are refused by name.");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] {
      on_root(world.comm(), "importing a model", [&] { import_model(*arguments); });
      return 0;
    });
  };
}

}  // namespace qat::launch
