#include "src/train/structure_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/json.h"
#include "src/checkpoint/train_state.h"
#include "src/model/gpt2_config.h"
#include "src/train/resume_check.h"

namespace qat {
namespace {

constexpr char kGroup[] = "/model/";
constexpr std::size_t kMostTensorsNamed = 6;

// They decide what the base network computes and which tensors it has.
constexpr std::array<std::string_view, 6> kBaseKeys = {"model.n_layer",     "model.n_head",     "model.n_embd",
                                                       "model.n_positions", "model.vocab_size", "model.tie_lm_head"};

bool is_zero_rank(const ConfigChange& change) { return change.before == "0" || change.after == "0"; }

// The ranks that lora.per_width gives to widths; an older checkpoint has no such list.
std::map<std::int64_t, std::string> ranks_in(const std::string& json) {
  std::map<std::int64_t, std::string> ranks;
  if (json.empty()) return ranks;
  const Value list = parse_json(json, "lora.per_width", ErrorKind::kCheckpoint);
  for (const Value& one : list.as_array())
    if (const Value* rank = one.find("rank"); rank != nullptr && !rank->is_null())
      ranks[one.at("bits").as_int()] = to_json(*rank);
  return ranks;
}

// Whether the keys give other adapters their ranks, which then have other shapes.
bool gives_other_ranks(const ConfigChange& change) {
  if (change.key == "lora.per_width") return ranks_in(change.before) != ranks_in(change.after);
  const auto rule = [](const std::string& json) { return json.empty() ? "\"fixed\"" : json; };
  return change.key == "lora.rank_rule" && rule(change.before) != rule(change.after);
}

// Whether a checkpoint with this difference is of another model.
bool is_structural(const ConfigChange& change, LoadFor purpose) {
  // A new run's adapters of other shapes start as in a new model, unless the checkpoint has them by the same names.
  if (gives_other_ranks(change)) return purpose != LoadFor::kInitialValues;
  if (std::find(kBaseKeys.begin(), kBaseKeys.end(), change.key) != kBaseKeys.end()) return true;
  // A new run may start from a model that has another head; programs before there were tasks had language models.
  if (change.key == "model.task")
    return purpose != LoadFor::kInitialValues && !(change.before.empty() && change.after == R"("language_model")");
  const bool initial = purpose == LoadFor::kInitialValues;
  if (change.key == "lora.rank") return !initial || !is_zero_rank(change);
  if (change.key == "model.quantize_lm_head") return !initial;
  // New runs start widths' own parameters from shared ones, and the other way around from those of unquantized passes.
  if (change.key == "lora.slots" || change.key == "model.norm_slots") return !initial;
  return change.key == "model.freeze_base" && purpose == LoadFor::kResume;
}

// Differences that are allowed but change what the loaded parameters compute; a resumed run logs all its changes
// anyway.
bool is_worth_saying(const ConfigChange& change, LoadFor purpose) {
  if (purpose == LoadFor::kResume) return false;
  if (change.key == "lora.per_width" || change.key == "lora.rank_rule" || change.key == "lora.input")
    return !change.before.empty();
  return change.key == "lora.alpha" || change.key == "lora.rank" || change.key == "model.quantize_lm_head";
}

bool is_adapter(std::string_view name) { return name.find(".lora_") != std::string_view::npos; }
// What a new model begins with by itself.
bool begins_by_itself(const std::string& name) { return is_adapter(name) || is_trained_range(name); }
bool answers_questions(std::string_view name) { return name.starts_with("qa_outputs."); }

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

struct TensorDifferences {
  std::vector<std::string> wrong;      // lines
  std::vector<std::string> fresh;      // adapters and trained ranges that are not in the checkpoint
  bool fresh_head = false;             // nor is the head that answers questions
  std::vector<std::string> inherited;  // widths' own ones that start from what the checkpoint's widths share
  std::vector<std::string>
      left_out;  // adapters, trained ranges, widths' own norms and heads that the model does not have
};

TensorDifferences compare_tensors(const CheckpointReader& checkpoint, const ParameterStore& parameters,
                                  LoadFor purpose) {
  const bool may_differ = purpose == LoadFor::kInitialValues;
  const auto names = checkpoint.tensor_names("/model");
  std::set<std::string> unread(names.begin(), names.end()), inherited;
  TensorDifferences found;
  const auto& infos = parameters.infos();
  const bool asks =
      std::any_of(infos.begin(), infos.end(), [](const ParameterInfo& info) { return answers_questions(info.name); });
  for (const ParameterInfo& info : parameters.infos()) {
    const std::string name = kGroup + info.name;
    const auto stored = unread.find(name);
    if (stored == unread.end()) {
      if (const std::string source = stored_name(checkpoint, info, purpose); !source.empty()) {
        inherited.emplace(source);
        found.inherited.push_back(info.name);
      } else if (may_differ && answers_questions(info.name))
        found.fresh_head = true;
      else if (may_differ && begins_by_itself(info.name))
        found.fresh.push_back(info.name);
      else
        found.wrong.push_back(
            fmt::format("tensor {}: (not there) in the checkpoint, {} now", info.name, shape_text(info.shape)));
      continue;
    }
    unread.erase(stored);
    if (const Shape shape = checkpoint.tensor_info(name).shape; shape != info.shape)
      found.wrong.push_back(
          fmt::format("tensor {}: {} in the checkpoint, {} now", info.name, shape_text(shape), shape_text(info.shape)));
  }
  for (const std::string& name : unread) {
    if (inherited.contains(name)) continue;
    const std::string own = name.substr(sizeof(kGroup) - 1);
    // A model has one head.
    const bool other_head = answers_questions(own) || (asks && own == "lm_head.weight");
    if (may_differ && (begins_by_itself(own) || other_head || name_without_width(own)))
      found.left_out.push_back(own);
    else
      found.wrong.push_back(fmt::format("tensor {}: {} in the checkpoint, (not there) now", own,
                                        shape_text(checkpoint.tensor_info(name).shape)));
  }
  return found;
}

std::string mend(LoadFor purpose) {
  switch (purpose) {
    case LoadFor::kResume:
      return "set these keys as the checkpoint has them, or give the run another run.dir";
    case LoadFor::kEvaluation:
      return "leave these keys out of --set: they say what the checkpoint's parameters are parameters of";
    case LoadFor::kInitialValues:
      return "set these keys as the checkpoint of model.init_from has them; of the adapters, lora.rank may also be 0 "
             "on "
             "one side";
  }
  fail_internal("purpose", "a purpose that does not exist", __FILE__, __LINE__);
}

[[noreturn]] void refuse(const CheckpointReader& checkpoint, const std::vector<std::string>& lines, LoadFor purpose) {
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("the checkpoint {} is of another model than the one asked for:\n  {}\n  {}",
                          checkpoint.info().folder.string(), fmt::join(lines, "\n  "), mend(purpose)));
}

std::vector<ConfigChange> changes_since(const CheckpointReader& checkpoint, const std::string& current_json) {
  return config_changes(load_train_state(checkpoint).config_json, current_json);
}

// A list that the checkpoint's program did not have, and that is empty now.
bool is_new_and_empty(const ConfigChange& change) { return change.before.empty() && change.after == "[]"; }

// A setting that the checkpoint's program did not have, and that says what it did.
bool is_new_and_as_before(const ConfigChange& change) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kKeys = {
      std::pair{"quant.calibration_method", "\"minmax\""}, std::pair{"quant.calibration_percentile", "99.9"},
      std::pair{"quant.running_momentum", "0.9"}, std::pair{"quant.weight.group_size", "64"}};
  return change.before.empty() && std::any_of(kKeys.begin(), kKeys.end(), [&](const auto& known) {
           return change.key == known.first && change.after == known.second;
         });
}

// Whether a setting is one that the checkpoint's ranges in force are of.
bool is_of_ranges(const CheckpointReader& checkpoint, const ConfigChange& change) {
  const std::string_view key = change.key;
  if (key == "quant.activation.method" || key == "quant.activation.log_codebook" ||
      key == "quant.activation.granularity")
    return true;
  if (key == "quant.activation.by_width") return !is_new_and_empty(change);
  if (key == "quant.weight.by_width" && is_new_and_empty(change)) return false;
  if (key != "quant.weight.method" && key != "quant.weight.granularity" && key != "quant.weight.by_width") return false;
  const std::vector<std::string> names = checkpoint.tensor_names("/quant");
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.find("/weight/") != std::string::npos; });
}

bool asks_questions(const std::string& config_json) {
  const Value config = parse_json(config_json, "the current configuration", ErrorKind::kCheckpoint);
  const Value* model = config.find("model");
  const Value* task = model == nullptr ? nullptr : model->find("task");
  return task != nullptr && task->as_string() == enum_name(ModelTask::kSpanQa);
}

// Settings of quantization that no calibrated range depends on.
bool leaves_ranges_alone(std::string_view key) {
  constexpr std::array<std::string_view, 6> kKeys = {
      "quant.widths",       "quant.maps", "quant.kv_bits", "quant.recalibrate_every", "quant.stochastic_gradients",
      "quant.log_grad_clip"};
  return !key.starts_with("quant.") || std::find(kKeys.begin(), kKeys.end(), key) != kKeys.end();
}

}  // namespace

std::string stored_name(const CheckpointReader& checkpoint, const ParameterInfo& info, LoadFor purpose) {
  const std::string name = kGroup + info.name;
  if (checkpoint.has_tensor(name)) return name;
  const std::optional<std::string> shared = name_without_width(info.name);
  const bool inherits = purpose == LoadFor::kInitialValues && shared && checkpoint.has_tensor(kGroup + *shared) &&
                        checkpoint.tensor_info(kGroup + *shared).shape == info.shape;
  return inherits ? kGroup + *shared : "";
}

std::vector<std::string> check_structure(const CheckpointReader& checkpoint, const std::string& current_json,
                                         const ParameterStore* parameters, LoadFor purpose) {
  if (purpose == LoadFor::kResume && checkpoint.tensor_names("/optimizer").empty())
    throw Error(
        ErrorKind::kCheckpoint,
        fmt::format("the checkpoint {} has no optimizer state: it is of an imported model, which no run goes on "
                    "from. A new run starts from it with model.init = \"checkpoint\" and model.init_from",
                    checkpoint.info().folder.string()));
  std::vector<std::string> wrong, notes;
  const bool no_projection = asks_questions(current_json);
  for (const ConfigChange& change : changes_since(checkpoint, current_json)) {
    if (no_projection && change.key == "model.tie_lm_head") continue;
    if (is_structural(change, purpose))
      wrong.push_back(change.text());
    else if (is_worth_saying(change, purpose))
      notes.push_back(change.text());
  }
  // Tensors that differ follow from settings that do, which say it shorter.
  if (!wrong.empty()) refuse(checkpoint, wrong, purpose);
  if (parameters == nullptr) return notes;
  TensorDifferences tensors = compare_tensors(checkpoint, *parameters, purpose);
  if (const std::size_t count = tensors.wrong.size(); count > 0) {
    tensors.wrong.resize(std::min(count, kMostTensorsNamed));
    if (count > kMostTensorsNamed) tensors.wrong.push_back(fmt::format("and {} more", count - kMostTensorsNamed));
    refuse(checkpoint, tensors.wrong, purpose);
  }
  if (!tensors.fresh.empty())
    notes.push_back(fmt::format(
        "{} tensors of adapters or learned ranges are not in the checkpoint and start as in a new model ({}, ...)",
        tensors.fresh.size(), tensors.fresh.front()));
  if (tensors.fresh_head)
    notes.emplace_back(
        "the head that answers questions (qa_outputs) is not in the checkpoint and starts as in a new model");
  if (!tensors.inherited.empty())
    notes.push_back(
        fmt::format("{} tensors of single widths are not in the checkpoint and start as what its widths share "
                    "({}, ...)",
                    tensors.inherited.size(), tensors.inherited.front()));
  if (!tensors.left_out.empty())
    notes.push_back(
        fmt::format("{} tensors of the checkpoint are left out: adapters, learned ranges, widths' own norms or a head "
                    "that this model "
                    "does not have ({}, ...)",
                    tensors.left_out.size(), tensors.left_out.front()));
  return notes;
}

bool ranges_fit(const CheckpointReader& checkpoint, const std::string& current_json, std::vector<std::string>& notes) {
  bool fit = true;
  for (const ConfigChange& change : changes_since(checkpoint, current_json)) {
    if (!is_of_ranges(checkpoint, change)) continue;
    fit = false;
    notes.push_back("its calibrated activation ranges are not used: " + change.text());
  }
  return fit;
}

bool evaluation_ranges_fit(const CheckpointReader& checkpoint, const std::string& current_json) {
  const auto changes = changes_since(checkpoint, current_json);
  return std::all_of(changes.begin(), changes.end(), [](const ConfigChange& change) {
    return leaves_ranges_alone(change.key) || is_new_and_empty(change) || is_new_and_as_before(change);
  });
}

}  // namespace qat
