#include "src/train/run_state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "src/checkpoint/sharded_load.h"
#include "src/quant/torch_view.h"
#include "src/train/feedback_state.h"
#include "src/train/on_root.h"
#include "src/train/range_state.h"
#include "src/train/run_pieces.h"

namespace qat {
namespace {

constexpr std::int64_t kBroadcastElems = 4 << 20;  // of 4 bytes

// What no rank has a part of.
void write_rest(CheckpointWriter& writer, const TrainState& state, const Gpt2& model, ShardedAdamW& optimizer,
                const EvaluationRanges& ranges) {
  save_train_state(writer, state);
  for (const ParameterInfo& info : model.parameters().infos())
    if (info.shape.size() == 2) writer.set_attribute(parameter_name(info), "layout", std::string("[out, in]"));
  const std::vector<int> ids = trainable_ids(model);
  for (std::size_t i = 0; i < ids.size(); ++i)
    writer.write_tensor(moment_name("step", model.parameters().info(ids[i])), {1},
                        std::span<const std::int64_t>(&optimizer.steps()[i], 1));
  write_ranges(writer, model, ranges);
}

// Broadcasts rank 0's values of a trivially copyable type.
template <typename T>
void broadcast_values(std::span<T> values, dist::Communicator& comm) {
  comm.broadcast({values.data(), static_cast<std::int64_t>(values.size_bytes()), DType::kUInt8, Device::kCpu},
                 /*root=*/0);
}

void load_parameter(const ParameterSource* source, ParameterStore& store, int id, dist::Communicator& comm) {
  const ParameterInfo& info = store.info(id);
  std::vector<float> block(static_cast<std::size_t>(std::min(info.elems, kBroadcastElems)));
  for (std::int64_t first = 0; first < info.elems; first += kBroadcastElems) {
    const std::span<float> values(block.data(),
                                  static_cast<std::size_t>(std::min(kBroadcastElems, info.elems - first)));
    on_root(comm, "loading parameters", [&] { source->read(info, first, values); });
    broadcast_values(values, comm);
    store.set_values(id, values, first);
  }
}

}  // namespace

std::unique_ptr<ShardedSave> begin_save(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                                        ShardedAdamW& optimizer, dist::Communicator& comm,
                                        const EvaluationRanges& ranges, GradientSync* gradients) {
  const auto rest = [&](CheckpointWriter& writer) { write_rest(writer, state, model, optimizer, ranges); };
  // The last update may still run on the step's stream.
  const kernels::Exec exec = exec_for(model.parameters().tensor(0));
  const PieceOrigin origin{.device = exec.device,
                           .gpu = exec.device == Device::kCuda ? model.parameters().device().index() : 0,
                           .stream = exec.stream};
  std::vector<TensorPiece> pieces = pieces_to_save(model, optimizer, comm);
  if (gradients != nullptr)
    for (TensorPiece& piece : feedback_to_save(model.parameters(), *gradients, comm.rank()))
      pieces.push_back(std::move(piece));
  return std::make_unique<ShardedSave>(root, state.step, std::move(pieces), rest, comm, origin);
}

std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                               ShardedAdamW& optimizer, dist::Communicator& comm, const EvaluationRanges& ranges,
                               GradientSync* gradients) {
  const std::unique_ptr<ShardedSave> save = begin_save(root, state, model, optimizer, comm, ranges, gradients);
  save->write();
  return save->finish();
}

std::vector<std::string> load_model(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm,
                                    LoadFor purpose, const std::string& config_json) {
  std::vector<std::string> notes;
  std::int32_t with_ranges = 0;
  on_root(comm, "comparing the checkpoint with the model", [&] {
    notes = check_structure(*reader, config_json, &model.parameters(), purpose);
    // A new run calibrates for itself: its parameters will be others soon.
    if (purpose != LoadFor::kInitialValues) with_ranges = ranges_fit(*reader, config_json, notes) ? 1 : 0;
  });
  const ParameterSource source{
      .has = [&](const ParameterInfo& info) { return !stored_name(*reader, info, purpose).empty(); },
      .read =
          [&](const ParameterInfo& info, std::int64_t first, std::span<float> out) {
            reader->read_elements(stored_name(*reader, info, purpose), info.shape, first, view(out));
          }};
  load_parameters(reader == nullptr ? nullptr : &source, model, comm);
  broadcast_values(std::span(&with_ranges, 1), comm);
  if (with_ranges != 0) load_ranges(reader, model, comm);
  return notes;
}

void load_parameters(const ParameterSource* source, Gpt2& model, dist::Communicator& comm) {
  ParameterStore& store = model.parameters();
  std::vector<std::int32_t> present(static_cast<std::size_t>(store.count()));
  on_root(comm, "loading parameters", [&] {
    for (int id = 0; id < store.count(); ++id)
      present[static_cast<std::size_t>(id)] = source->has(store.info(id)) ? 1 : 0;
  });
  broadcast_values(std::span(present), comm);
  for (int id = 0; id < store.count(); ++id)
    if (present[static_cast<std::size_t>(id)] != 0) load_parameter(source, store, id, comm);
}

void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer,
                    dist::Communicator& comm) {
  const std::vector<int> ids = trainable_ids(model);
  std::vector<std::int64_t>& steps = optimizer.steps();
  on_root(comm, "loading optimizer state", [&] {
    for (std::size_t i = 0; i < ids.size(); ++i)
      reader->read_tensor(moment_name("step", model.parameters().info(ids[i])), {1}, std::span(&steps[i], 1));
  });
  broadcast_values(std::span(steps), comm);
  load_sharded(reader, moments_to_load(model, optimizer), comm);
}

TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm) {
  std::string text;
  on_root(comm, "loading a checkpoint", [&] { text = to_text(load_train_state(*reader)); });
  return train_state_from_text(dist::broadcast_string(comm, text));
}

}  // namespace qat
