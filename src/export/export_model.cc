#include "src/export/export_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/export/hf_config.h"
#include "src/export/hf_model.h"

namespace qat {
namespace {

constexpr std::int64_t kReadElems = 1 << 20;
constexpr char kAdapterPrefix[] = "base_model.model.";  // peft's
constexpr char kAdapterWeightsName[] = "adapter_model.safetensors";

}  // namespace

ExportPlan plan_model_export(const Gpt2Config& config, FloatFormat format) {
  return {.tensors = gpt2_tensors(config),
          .prefix = "",
          .weights_name = kHfWeightsName,
          .config_name = kHfConfigName,
          .config_json = hf_config_json(config, format)};
}

ExportPlan plan_adapter_export(const Gpt2Config& config, const std::vector<ExportedAdapter>& adapters,
                               const std::string& base_model) {
  ExportPlan plan{.tensors = {},
                  .prefix = kAdapterPrefix,
                  .weights_name = kAdapterWeightsName,
                  .config_name = kAdapterConfigName,
                  .config_json = adapter_config_json(config, adapters, base_model)};
  const std::vector<Gpt2Tensor> base = gpt2_tensors(config);
  for (const auto& [layer, shape] : adapters) {
    QAT_CHECK(shape.rank > 0, "layer " + layer + " has no adapter");
    const std::string prefix = parameter_prefix(layer);
    const std::string weight = layer == "lm_head" && config.tie_lm_head ? kTokenEmbedding : prefix + ".weight";
    const auto found =
        std::find_if(base.begin(), base.end(), [&](const auto& tensor) { return tensor.name == weight; });
    QAT_CHECK(found != base.end(), weight + " is a tensor of the base network");
    plan.tensors.push_back({prefix + ".lora_A.weight", {shape.rank, found->shape[1]}});
    plan.tensors.push_back({prefix + ".lora_B.weight", {found->shape[0], shape.rank}});
  }
  return plan;
}

ModelExport::ModelExport(const std::filesystem::path& folder, std::string_view key, bool overwrite, FloatFormat format,
                         ExportPlan plan)
    : folder_(folder), plan_(std::move(plan)) {
  create_directories_checked(folder, key);
  for (const std::string& name : {plan_.config_name, plan_.weights_name, precision_name(plan_.weights_name)}) {
    std::error_code error;
    if (!overwrite && std::filesystem::exists(std::filesystem::symlink_status(folder / name, error)))
      throw Error(ErrorKind::kConfig, fmt::format("{} is \"{}\", which has {} already: name another folder, or replace "
                                                  "it by --overwrite",
                                                  key, folder.string(), name));
  }
  std::vector<TensorToWrite> tensors;
  for (const Gpt2Tensor& tensor : plan_.tensors) tensors.push_back({plan_.prefix + tensor.name, tensor.stored_shape()});
  weights_ = std::make_unique<SafetensorsWriter>(folder / plan_.weights_name, format, tensors);
}

void ModelExport::write(const ReadElements& read) {
  std::vector<float> block;
  for (const Gpt2Tensor& tensor : plan_.tensors) {
    if (tensor.transposed) {
      write_transposed(tensor, read);
      continue;
    }
    const std::int64_t elems = element_count(tensor.shape);
    for (std::int64_t first = 0; first < elems; first += kReadElems) {
      block.resize(static_cast<std::size_t>(std::min(kReadElems, elems - first)));
      read(tensor, first, block);
      weights_->append(block);
    }
  }
  weights_->complete();
  weights_->publish();
  const std::filesystem::path precision = folder_ / precision_name(plan_.weights_name);
  if (plan_.precision_json.empty()) {
    std::error_code error;
    std::filesystem::remove(precision, error);  // what it said was of the file that is replaced
    if (error) throw Error(ErrorKind::kData, fmt::format("cannot remove {}: {}", precision.string(), error.message()));
  } else {
    write_file_atomic(precision, plan_.precision_json, ErrorKind::kData);
  }
  // Last: a folder without it is no model.
  write_file_atomic(folder_ / plan_.config_name, plan_.config_json, ErrorKind::kData);
}

void ModelExport::write_transposed(const Gpt2Tensor& tensor, const ReadElements& read) {
  std::vector<float> values(static_cast<std::size_t>(element_count(tensor.shape)));
  read(tensor, 0, values);
  weights_->append(transposed(values, tensor.shape[0], tensor.shape[1]));
}

}  // namespace qat
