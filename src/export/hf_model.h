// A GPT-2 as Hugging Face's transformers keeps it: a folder with config.json and model.safetensors, or several
// safetensors files and model.safetensors.index.json that says which tensor is where.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/export/gpt2_tensors.h"
#include "src/export/safetensors_file.h"
#include "src/model/gpt2_config.h"

namespace qat {

inline constexpr char kHfWeightsName[] = "model.safetensors";
inline constexpr char kHfIndexName[] = "model.safetensors.index.json";

// Whether `path` is a folder with such weights (and no checkpoint of this program), whatever is in them.
bool is_hf_model(const std::filesystem::path& path);

// What of `asked`, a configuration's section "model", is another network than `stored`: "model.n_head: 12 in the
// model's folder, 4 now", a line each.
std::vector<std::string> model_differences(const Gpt2Config& stored, const Gpt2Config& asked);

class HfModel {
 public:
  // Reads config.json and the files' headers. Names may have the prefix "transformer." or not; causal masks among the
  // tensors are passed over. Where there is one of wte and lm_head, or both are equal, they are tied, unless
  // config.json says otherwise; where they differ, the head is its own. Throws Error(kData) naming the file and the
  // tensor or key where something is missing, is there twice, is not known, or has another shape or type than
  // config.json says.
  explicit HfModel(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const Gpt2Config& config() const { return config_; }                 // sizes, and tie_lm_head
  const std::vector<Gpt2Tensor>& tensors() const { return tensors_; }  // gpt2_tensors(config())
  const std::vector<std::string>& notes() const { return notes_; }     // lines for the log

  // Elements [first, first + out.size()) of one of tensors(), as fp32, in this program's layout. What is transposed is
  // read whole, and kept until another one is; of the rest nothing is.
  void read(const Gpt2Tensor& tensor, std::int64_t first, std::span<float> out);

  // Throws if a file was written to since it was opened.
  void require_unchanged() const;

 private:
  struct Place {
    const SafetensorsFile* file = nullptr;
    const StoredTensor* tensor = nullptr;
  };
  void open_files();
  void open_shards(const std::filesystem::path& index);
  void add_file(const std::filesystem::path& path);
  void note_tensors();
  void decide_head(std::optional<bool> tied);
  bool same_values(const Place& a, const Place& b) const;
  void check_tensors();
  // Where a tensor is, whatever prefix its name has; null: nowhere.
  const Place* find(std::string_view name) const;
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path folder_;
  Gpt2Config config_;
  std::vector<std::string> notes_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> places_;  // by this program's name
  std::vector<Gpt2Tensor> tensors_;
  std::string kept_name_;  // of the transposed tensor in kept_
  std::vector<float> kept_;
};

}  // namespace qat
