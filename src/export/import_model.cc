#include "src/export/import_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <vector>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/writer.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPieceElems = 1 << 20;  // of a piece: 4 MiB

std::string model_name(const Gpt2Tensor& tensor) { return "/model/" + tensor.name; }

// How checkpoint.h5 shows a tensor that lies in rank 0's file in blocks.
ShardedTensor in_blocks(const Gpt2Tensor& tensor) {
  ShardedTensor out{.name = model_name(tensor), .shape = tensor.shape, .dtype = DType::kFloat32, .parts = {}};
  const std::int64_t elems = element_count(tensor.shape);
  for (std::int64_t first = 0; first < elems; first += kPieceElems)
    out.parts.push_back({.file = shard_file_name(0),
                         .dataset = shard_dataset_name(out.name, first),
                         .first = first,
                         .elems = std::min(kPieceElems, elems - first),
                         .source_first = 0});
  return out;
}

}  // namespace

void prepare_import_folder(const fs::path& root, std::string_view key, bool overwrite) {
  create_directories_checked(root, key);
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (overwrite && name == step_folder_name(0)) continue;
    if (name.starts_with(kTemporaryPrefix + step_folder_name(0))) continue;
    throw Error(ErrorKind::kConfig,
                fmt::format("{} is \"{}\", a folder that has {} in it already: name a new one{}", key, root.string(),
                            name, name == step_folder_name(0) ? ", or replace the model there by --overwrite" : ""));
  }
  // Of an import that was killed.
  if (const Sweep sweep = sweep_leftovers(root); !sweep.failures.empty())
    throw Error(ErrorKind::kCheckpoint, sweep.failures.front());
}

CheckpointInfo write_imported(HfModel& model, const TrainState& state, const fs::path& root) {
  std::int64_t bytes = 0;
  for (const Gpt2Tensor& tensor : model.tensors())
    bytes += element_count(tensor.shape) * static_cast<std::int64_t>(sizeof(float));
  CheckpointWriter writer = CheckpointWriter::begin(root, state.step, bytes);
  for (const Gpt2Tensor& tensor : model.tensors()) {
    writer.write_sharded(in_blocks(tensor));
    if (tensor.shape.size() == 2) writer.set_attribute(model_name(tensor), "layout", std::string("[out, in]"));
  }
  save_train_state(writer, state);
  writer.close_file();
  ShardWriter shard(writer.folder(), state.step, /*rank=*/0);
  std::vector<float> block;
  for (const Gpt2Tensor& tensor : model.tensors())
    for (const VirtualPart& part : in_blocks(tensor).parts) {
      block.resize(static_cast<std::size_t>(part.elems));
      model.read(tensor, part.first, block);
      shard.write({.name = model_name(tensor),
                   .shape = tensor.shape,
                   .first = part.first,
                   .values = ConstBufferView(view(std::span<const float>(block)))});
    }
  model.require_unchanged();
  return writer.commit({shard.finish()});
}

}  // namespace qat
