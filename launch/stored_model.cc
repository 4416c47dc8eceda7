#include "launch/stored_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "dist/comm/local_comm.h"
#include "launch/terminal.h"
#include "src/config/loader.h"
#include "src/train/run_state.h"
#include "src/train/step_runner.h"

namespace qat::launch {

StoredModel open_stored_model(const std::string& path, bool strict) {
  CheckpointReader reader = open_checkpoint(path, warn, {.strict = strict});
  TrainState state = load_train_state(reader);
  RunConfig config =
      load_run_config_text(state.config_json, "the configuration in " + reader.info().folder.string(), /*sets=*/{})
          .config;
  return {std::move(reader), std::move(state), std::move(config)};
}

std::unique_ptr<Gpt2> load_stored_model(const StoredModel& stored) {
  const std::unique_ptr<dist::Communicator> alone = dist::make_single_comm();
  auto model = std::make_unique<Gpt2>(stored.config.model, stored.config.lora, stored.config.quant,
                                      StepRunner::padding(alone->size()));
  for (const std::string& note :
       load_model(&stored.reader, *model, *alone, LoadFor::kEvaluation, stored.state.config_json))
    warn(note);
  return model;
}

void require_language_model(const StoredModel& stored, const std::string& command) {
  if (!stored.config.model.answers_questions()) return;
  throw Error(ErrorKind::kConfig,
              fmt::format("`{}` is for language models, and {} answers questions (model.task is \"span_qa\")", command,
                          stored.folder()));
}

void require_slots(const RunConfig& config, int bits, const std::string& option) {
  if (!BitWidth::is_usual(bits) && config.quant.weight.method_at(bits) != QuantizerKind::kLlmQat)
    throw Error(ErrorKind::kConfig, fmt::format("{} is {}: must be {}..{}, or {} for unquantized", option, bits,
                                                static_cast<int>(BitWidth::kMinUsual), static_cast<int>(BitWidth::kMax),
                                                static_cast<int>(BitWidth::kFull)));
  const std::vector<int> widths = quantized_weight_widths(config.quant);
  const bool own = config.lora.slots == Slots::kPerWidth || config.model.norm_slots == Slots::kPerWidth;
  if (!own || bits == BitWidth::kFull || std::find(widths.begin(), widths.end(), bits) != widths.end()) return;
  throw Error(ErrorKind::kConfig,
              fmt::format("{} is {}: the model has adapters or layer norms of its own for each of the "
                          "widths {} and 32, and none for this one",
                          option, bits, fmt::join(widths, ", ")));
}

}  // namespace qat::launch
