#include "src/export/hf_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <system_error>

#include "kernels/common/error.h"
#include "src/base/json.h"
#include "src/checkpoint/manifest.h"
#include "src/export/hf_config.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLargestJson = 4 << 20;  // bytes
constexpr std::size_t kCompareElems = std::size_t{1} << 20;
constexpr std::size_t kMostNamed = 6;

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::string read_json_file(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (!error && std::cmp_greater(bytes, kLargestJson))
    throw Error(ErrorKind::kData, fmt::format("{} has {} bytes; more than {} MiB are not read", path.string(), bytes,
                                              kLargestJson >> 20));
  return read_file(path, ErrorKind::kData);
}

// "wte.weight" and "transformer.wte.weight" are one; the head has no prefix.
std::string own_name(std::string_view stored) {
  if (stored == kLmHead || stored.starts_with(kTransformerPrefix)) return std::string(stored);
  return kTransformerPrefix + std::string(stored);
}

// Names of which there may be thousands, on one line.
std::string few(const std::vector<std::string>& names) {
  const std::size_t shown = std::min(names.size(), kMostNamed);
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  return names.size() > shown ? text + fmt::format(" and {} more", names.size() - shown) : text;
}

}  // namespace

bool is_hf_model(const fs::path& path) {
  return !is_file(path / kManifestName) && (is_file(path / kHfWeightsName) || is_file(path / kHfIndexName));
}

std::vector<std::string> model_differences(const Gpt2Config& stored, const Gpt2Config& asked) {
  std::vector<std::string> lines;
  const auto compare = [&](const char* key, auto before, auto now) {
    if (before != now) lines.push_back(fmt::format("model.{}: {} in the model's folder, {} now", key, before, now));
  };
  compare("n_layer", stored.n_layer, asked.n_layer);
  compare("n_head", stored.n_head, asked.n_head);
  compare("n_embd", stored.n_embd, asked.n_embd);
  compare("n_positions", stored.n_positions, asked.n_positions);
  compare("vocab_size", stored.vocab_size, asked.vocab_size);
  if (!asked.answers_questions()) compare("tie_lm_head", stored.tie_lm_head, asked.tie_lm_head);
  return lines;
}

HfModel::HfModel(const fs::path& folder) : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    fail(
        "is no folder; expected one with config.json and model.safetensors, as transformers' save_pretrained makes it");
  open_files();
  const fs::path config = folder / kHfConfigName;
  if (!is_file(config)) fail("has no config.json, which says what the tensors are");
  HfConfig read = parse_hf_config(read_json_file(config), config.string());
  config_ = read.model;
  notes_ = std::move(read.notes);
  note_tensors();
  decide_head(read.tied);
  tensors_ = gpt2_tensors(config_);
  check_tensors();
}

void HfModel::open_files() {
  if (is_file(folder_ / kHfWeightsName)) return add_file(folder_ / kHfWeightsName);
  if (is_file(folder_ / kHfIndexName)) return open_shards(folder_ / kHfIndexName);
  if (is_file(folder_ / "pytorch_model.bin"))
    fail(
        "has pytorch_model.bin and no model.safetensors: open it with transformers and write it by save_pretrained, "
        "which makes one");
  fail("has neither model.safetensors nor model.safetensors.index.json");
}

void HfModel::open_shards(const fs::path& index) {
  const Value root = parse_json(read_json_file(index), index.string(), ErrorKind::kData);
  std::map<std::string, std::set<std::string>> listed;  // by file
  for (const Value::Member& entry : root.at("weight_map").as_object()) {
    const std::string& name = entry.value.as_string();
    if (name.find_first_of(std::string("/\\\0", 3)) != name.npos || name.empty() || name.front() == '.')
      fail(fmt::format("has an index that places tensor {} in {}, which is no name of a file beside it",
                       shown_name(entry.key), shown_name(name)));
    listed[name].insert(entry.key);
  }
  for (const auto& [name, tensors] : listed) {
    add_file(folder_ / name);
    std::set<std::string> missing = tensors;
    for (const StoredTensor& tensor : files_.back().tensors())
      if (missing.erase(tensor.name) == 0 && !tensors.contains(tensor.name))
        fail(fmt::format("has the tensor {} in {}, which the index does not place there", shown_name(tensor.name),
                         name));
    if (!missing.empty())
      fail(fmt::format("has no tensor {} in {}, where the index places it", shown_name(*missing.begin()), name));
  }
}

void HfModel::add_file(const fs::path& path) { files_.emplace_back(path); }

void HfModel::note_tensors() {
  for (const SafetensorsFile& file : files_)
    for (const StoredTensor& tensor : file.tensors()) {
      if (is_mask_buffer(tensor.name, config_)) continue;
      const auto [found, fresh] = places_.emplace(own_name(tensor.name), Place{&file, &tensor});
      if (!fresh)
        fail(fmt::format("has the tensor {} twice: as {} in {} and as {} in {}", shown_name(found->first),
                         shown_name(found->second.tensor->name), found->second.file->path().filename().string(),
                         shown_name(tensor.name), file.path().filename().string()));
    }
}

void HfModel::decide_head(std::optional<bool> tied) {
  const Place* table = find(kTokenEmbedding);
  const Place* head = find(kLmHead);
  if (table != nullptr && head != nullptr) {
    if (tied == false) return;
    if (!same_values(*table, *head)) {
      config_.tie_lm_head = false;
      notes_.push_back(
          fmt::format("{}: lm_head.weight differs from {}, though config.json {}: they are taken as two, "
                      "as transformers does (model.tie_lm_head is false)",
                      folder_.string(), kTokenEmbedding, tied ? "ties them" : "does not say that they are two"));
      return;
    }
  } else if (tied == false) {
    return;  // check_tensors() names the missing one
  } else if (head != nullptr) {
    places_[kTokenEmbedding] = *head;
  }
  places_.erase(kLmHead);
}

bool HfModel::same_values(const Place& a, const Place& b) const {
  if (a.tensor->shape != b.tensor->shape || !a.tensor->format() || !b.tensor->format()) return false;
  std::vector<float> x, y;
  for (std::int64_t first = 0; first < a.tensor->elems; first += static_cast<std::int64_t>(kCompareElems)) {
    x.resize(std::min(kCompareElems, static_cast<std::size_t>(a.tensor->elems - first)));
    y.resize(x.size());
    a.file->read(*a.tensor, first, x);
    b.file->read(*b.tensor, first, y);
    if (std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

void HfModel::check_tensors() {
  std::vector<std::string> missing, unknown;
  std::set<std::string> expected;
  for (const Gpt2Tensor& tensor : tensors_) {
    expected.insert(tensor.name);
    if (find(tensor.name) == nullptr) missing.push_back(tensor.name);
  }
  for (const auto& [name, place] : places_)
    if (!expected.contains(name)) unknown.push_back(shown_name(place.tensor->name));
  if (!missing.empty() || !unknown.empty())
    fail(fmt::format("is not the GPT-2 of {} blocks that its config.json speaks of:{}{}", config_.n_layer,
                     missing.empty() ? "" : fmt::format(" {} tensors are missing ({})", missing.size(), few(missing)),
                     unknown.empty() ? ""
                                     : fmt::format("{} {} are not of such a model ({})", missing.empty() ? "" : ";",
                                                   unknown.size(), few(unknown))));
  for (const Gpt2Tensor& tensor : tensors_) {
    const StoredTensor& stored = *find(tensor.name)->tensor;
    if (stored.shape != tensor.stored_shape())
      fail(fmt::format("has the tensor {} as {}, expected {} by its config.json{}", shown_name(stored.name),
                       shape_text(stored.shape), shape_text(tensor.stored_shape()),
                       stored.shape == tensor.shape && tensor.transposed ? " (it must be transposed, [in, out])" : ""));
    if (!stored.format())
      fail(fmt::format("has the tensor {} of type {}, expected F32, F16 or BF16", shown_name(stored.name),
                       stored.dtype));
  }
}

const HfModel::Place* HfModel::find(std::string_view name) const {
  const auto found = places_.find(std::string(name));
  return found == places_.end() ? nullptr : &found->second;
}

void HfModel::read(const Gpt2Tensor& tensor, std::int64_t first, std::span<float> out) {
  const Place* place = find(tensor.name);
  QAT_CHECK(place != nullptr, tensor.name + " is no tensor of this model");
  if (!tensor.transposed) return place->file->read(*place->tensor, first, out);
  if (kept_name_ != tensor.name) {
    kept_name_.clear();
    kept_.resize(static_cast<std::size_t>(place->tensor->elems));
    place->file->read(*place->tensor, 0, kept_);
    kept_ = transposed(kept_, /*rows=*/tensor.shape[1], /*cols=*/tensor.shape[0]);
    kept_name_ = tensor.name;
  }
  QAT_CHECK(first >= 0 && static_cast<std::size_t>(first) + out.size() <= kept_.size(), "values inside the tensor");
  std::copy_n(kept_.begin() + static_cast<std::ptrdiff_t>(first), out.size(), out.begin());
}

void HfModel::require_unchanged() const {
  for (const SafetensorsFile& file : files_) file.require_unchanged();
}

void HfModel::fail(const std::string& what) const {
  throw Error(ErrorKind::kData, fmt::format("{} {}", folder_.string(), what));
}

}  // namespace qat
