#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>

#include "launch/command.h"
#include "launch/failure.h"
#include "launch/output_file.h"
#include "launch/stored_model.h"
#include "launch/world.h"
#include "src/eval/width_eval.h"
#include "src/export/safetensors_file.h"
#include "src/quant/torch_view.h"
#include "src/train/calibrator.h"
#include "src/train/on_root.h"

namespace qat::launch {
namespace {

struct LogitsArguments {
  std::string checkpoint;
  std::vector<std::int64_t> ids;
  std::string output;
  int bits = BitWidth::kFull;
  bool overwrite = false;
  bool strict = false;
};

void check_ids(const std::vector<std::int64_t>& ids, const Gpt2Config& config) {
  if (std::cmp_greater(ids.size(), config.n_positions))
    throw Error(ErrorKind::kConfig, fmt::format("--ids has {} tokens; this model takes up to {} (model.n_positions)",
                                                ids.size(), config.n_positions));
  for (const std::int64_t id : ids)
    if (id < 0 || id >= config.vocab_size)
      throw Error(ErrorKind::kConfig,
                  fmt::format("--ids: {} is no token of this model; expected 0 to {}", id, config.vocab_size - 1));
}

// [T, V]
at::Tensor logits_of(const Gpt2& model, const PrecisionMap& precision, const std::vector<std::int64_t>& ids) {
  const at::NoGradGuard no_grad;
  const ForwardContext context{.precision = &precision};
  const at::Tensor tokens = at::tensor(ids, at::kLong).unsqueeze(0);
  return model.logits(model.hidden(tokens, context), context).to(at::kFloat).squeeze(0).contiguous();
}

void write_logits(const LogitsArguments& arguments) {
  const BitWidth width(arguments.bits);
  if (!arguments.overwrite && std::filesystem::exists(arguments.output))
    throw Error(ErrorKind::kConfig, fmt::format("--output is \"{}\", which is there already: name another file, or "
                                                "replace it by --overwrite",
                                                arguments.output));
  prepare_output_file(arguments.output, "--output");
  const StoredModel stored = open_stored_model(arguments.checkpoint, arguments.strict);
  const Gpt2Config& config = stored.config.model;
  require_language_model(stored, "logits");
  require_slots(stored.config, width.bits(), "--bits");
  check_ids(arguments.ids, config);
  const auto length = static_cast<std::int64_t>(arguments.ids.size());
  SafetensorsWriter output(arguments.output, FloatFormat::kFloat32, {{"logits", {length, config.vocab_size}}});
  const std::unique_ptr<Gpt2> model = load_stored_model(stored);
  const PrecisionMap precision = evaluation_precision(*model, stored.config.quant, width.bits());
  if (!layers_to_calibrate(*model, precision, stored.state.step, /*recalibrate_every=*/0).empty())
    throw Error(ErrorKind::kConfig, fmt::format("--bits {}: {} has no calibrated activation ranges of this width",
                                                width.bits(), stored.folder()));
  const at::Tensor logits = logits_of(*model, precision, arguments.ids);
  output.append(const_span(logits));
  output.complete();
  output.publish();
  fmt::print("logits [{}, {}] at {} bits in {}\n  {}\n", length, config.vocab_size, width.bits(), arguments.output,
             stored.folder());
}

}  // namespace

Run add_logits(CLI::App& app) {
  auto arguments = std::make_shared<LogitsArguments>();
  app.add_option("--checkpoint", arguments->checkpoint, "checkpoint folder, or a run folder: its newest checkpoint")
      ->required();
  app.add_option("--ids", arguments->ids, "token ids, e.g. 464,3290,318")->required()->delimiter(',');
  app.add_option("-o,--output", arguments->output,
                 "safetensors file for the tensor \"logits\", fp32 [tokens, vocabulary]")
      ->required();
  app.add_option("--bits", arguments->bits, "width of the pass")->capture_default_str();
  app.add_flag("--overwrite", arguments->overwrite, "replace the file");
  app.add_flag("--strict", arguments->strict, "a damaged newest checkpoint of a run is an error: take no older one");
  app.footer("Row t has the logits of what follows token t, computed on the CPU: to compare with other programs.");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] {
      (void)world.use_threads(1);
      on_root(world.comm(), "computing logits", [&] { write_logits(*arguments); });
      return 0;
    });
  };
}

}  // namespace qat::launch
