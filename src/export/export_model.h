// A model, or its adapter alone, for other programs: a safetensors file and the JSON file that goes with it; of
// quantized values also one that says their widths.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/export/exported_precision.h"
#include "src/export/gpt2_tensors.h"
#include "src/export/hf_config.h"
#include "src/export/safetensors_file.h"

namespace qat {

// What is written: tensors in order, each as `prefix` and its name.
struct ExportPlan {
  std::vector<Gpt2Tensor> tensors;
  std::string prefix;
  std::string weights_name, config_name;  // files of the folder
  std::string config_json;
  std::string precision_json;  // of precision_name(); empty: nothing is quantized, and there is no such file
};

// For transformers: config.json and model.safetensors of the base network; `config` says which tensors those are.
ExportPlan plan_model_export(const Gpt2Config& config, FloatFormat format);
// For peft: adapter_config.json and adapter_model.safetensors, of so many quantized layers' adapters.
ExportPlan plan_adapter_export(const Gpt2Config& config, const std::vector<ExportedAdapter>& adapters,
                               const std::string& base_model);

// Fills `out` with elements [first, first + out.size()) of a tensor in this program's layout.
using ReadElements = std::function<void(const Gpt2Tensor& tensor, std::int64_t first, std::span<float> out)>;

class ModelExport {
 public:
  // Makes the folder and opens the weights' file in it. Throws Error(kConfig) that names the folder as `key` where one
  // of the files is there already, or one that says widths, unless `overwrite`; whatever else is in the folder
  // stays.
  ModelExport(const std::filesystem::path& folder, std::string_view key, bool overwrite, FloatFormat format,
              ExportPlan plan);

  // Reads all values, some MiB at a time (a transposed tensor whole), and writes the files, durably; when something
  // fails on the way, those that were there before are as they were.
  void write(const ReadElements& read);

  std::int64_t bytes() const { return weights_->bytes(); }  // of the weights' file

 private:
  void write_transposed(const Gpt2Tensor& tensor, const ReadElements& read);

  std::filesystem::path folder_;
  ExportPlan plan_;
  std::unique_ptr<SafetensorsWriter> weights_;
};

}  // namespace qat
