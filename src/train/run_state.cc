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

// The numbers of updates of all trainable parameters, in the whole model's order, from the stages that have them.
// Collective over those.
std::vector<std::int64_t> steps_of_all_stages(const Gpt2& model, ShardedAdamW& optimizer, const dist::Grid& grid) {
  if (grid.stages() == 1) return optimizer.steps();
  const ParameterStore& store = model.parameters();
  std::vector<std::int64_t> all;
  for (const ParameterInfo& info : model.whole().parameters().infos()) {
    if (!info.trainable) continue;
    const int id = store.find(info.name), own = id < 0 ? -1 : store.info(id).trainable_index;
    all.push_back(own < 0 ? 0 : optimizer.steps()[static_cast<std::size_t>(own)]);
  }
  grid.pipeline().all_reduce(view(std::span(all)), dist::ReduceOp::kMax);
  return all;
}

// What no rank has a part of.
void write_rest(CheckpointWriter& writer, const TrainState& state, const Gpt2& whole,
                const std::vector<std::int64_t>& steps, const std::vector<StoredRange>& ranges) {
  save_train_state(writer, state);
  for (const ParameterInfo& info : whole.parameters().infos())
    if (info.shape.size() == 2) writer.set_attribute(parameter_name(info), "layout", std::string("[out, in]"));
  const std::vector<int> ids = trainable_ids(whole);
  for (std::size_t i = 0; i < ids.size(); ++i)
    writer.write_tensor(moment_name("step", whole.parameters().info(ids[i])), {1},
                        std::span<const std::int64_t>(&steps.at(i), 1));
  write_ranges(writer, ranges);
}

// Broadcasts rank 0's values of a trivially copyable type.
template <typename T>
void broadcast_values(std::span<T> values, dist::Communicator& comm) {
  comm.broadcast({values.data(), static_cast<std::int64_t>(values.size_bytes()), DType::kUInt8, Device::kCpu},
                 /*root=*/0);
}

// info: the whole model's, of which a stage takes what it has.
void load_parameter(const ParameterSource* source, ParameterStore& store, const ParameterInfo& info,
                    dist::Communicator& comm) {
  const int id = store.find(info.name);
  std::vector<float> block(static_cast<std::size_t>(std::min(info.elems, kBroadcastElems)));
  for (std::int64_t first = 0; first < info.elems; first += kBroadcastElems) {
    const std::span<float> values(block.data(),
                                  static_cast<std::size_t>(std::min(kBroadcastElems, info.elems - first)));
    on_root(comm, "loading parameters", [&] { source->read(info, first, values); });
    broadcast_values(values, comm);
    if (id >= 0) store.set_values(id, values, first);
  }
}

}  // namespace

std::unique_ptr<ShardedSave> begin_save(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                                        ShardedAdamW& optimizer, const dist::Grid& grid, const EvaluationRanges& ranges,
                                        GradientSync* gradients) {
  const std::vector<std::int64_t> steps = steps_of_all_stages(model, optimizer, grid);
  const std::vector<StoredRange> all_ranges = ranges_of_all_stages(model, ranges, grid);
  const auto rest = [&](CheckpointWriter& writer) { write_rest(writer, state, model.whole(), steps, all_ranges); };
  // The last update may still run on the step's stream.
  const kernels::Exec exec = exec_for(model.parameters().tensor(0));
  const PieceOrigin origin{.device = exec.device,
                           .gpu = exec.device == Device::kCuda ? model.parameters().device().index() : 0,
                           .stream = exec.stream};
  std::vector<TensorPiece> pieces = pieces_to_save(model, optimizer, grid.data());
  if (gradients != nullptr)
    for (TensorPiece& piece : feedback_to_save(model.parameters(), *gradients, grid.data_rank()))
      pieces.push_back(std::move(piece));
  return std::make_unique<ShardedSave>(root, state.step, std::move(pieces), rest, grid.world(), origin);
}

std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, const Gpt2& model,
                               ShardedAdamW& optimizer, const dist::Grid& grid, const EvaluationRanges& ranges,
                               GradientSync* gradients) {
  const std::unique_ptr<ShardedSave> save = begin_save(root, state, model, optimizer, grid, ranges, gradients);
  save->write();
  return save->finish();
}

std::vector<std::string> load_model(const CheckpointReader* reader, Gpt2& model, const dist::Grid& grid,
                                    LoadFor purpose, const std::string& config_json) {
  dist::Communicator& comm = grid.world();
  std::vector<std::string> notes;
  std::int32_t with_ranges = 0;
  on_root(comm, "comparing the checkpoint with the model", [&] {
    notes = check_structure(*reader, config_json, &model.whole().parameters(), purpose);
    // A new run calibrates for itself: its parameters will be others soon.
    if (purpose != LoadFor::kInitialValues) with_ranges = ranges_fit(*reader, config_json, notes) ? 1 : 0;
  });
  const ParameterSource source{
      .has = [&](const ParameterInfo& info) { return !stored_name(*reader, info, purpose).empty(); },
      .read =
          [&](const ParameterInfo& info, std::int64_t first, std::span<float> out) {
            reader->read_elements(stored_name(*reader, info, purpose), info.shape, first, view(out));
          }};
  load_parameters(reader == nullptr ? nullptr : &source, model, grid);
  broadcast_values(std::span(&with_ranges, 1), comm);
  if (with_ranges != 0) load_ranges(reader, model, comm);
  return notes;
}

void load_parameters(const ParameterSource* source, Gpt2& model, const dist::Grid& grid) {
  dist::Communicator& comm = grid.world();
  const ParameterStore& whole = model.whole().parameters();
  std::vector<std::int32_t> present(static_cast<std::size_t>(whole.count()));
  on_root(comm, "loading parameters", [&] {
    for (int id = 0; id < whole.count(); ++id)
      present[static_cast<std::size_t>(id)] = source->has(whole.info(id)) ? 1 : 0;
  });
  broadcast_values(std::span(present), comm);
  for (int id = 0; id < whole.count(); ++id)
    if (present[static_cast<std::size_t>(id)] != 0) load_parameter(source, model.parameters(), whole.info(id), comm);
}

void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer,
                    const dist::Grid& grid) {
  dist::Communicator& comm = grid.world();
  const ParameterStore& whole = model.whole().parameters();
  const std::vector<int> ids = trainable_ids(model.whole());
  std::vector<std::int64_t> steps(ids.size());
  on_root(comm, "loading optimizer state", [&] {
    for (std::size_t i = 0; i < ids.size(); ++i)
      reader->read_tensor(moment_name("step", whole.info(ids[i])), {1}, std::span(&steps[i], 1));
  });
  broadcast_values(std::span(steps), comm);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const int id = model.parameters().find(whole.info(ids[i]).name);
    if (id < 0) continue;
    // A copy of what another stage trains has no updates of its own.
    if (const int own = model.parameters().info(id).trainable_index; own >= 0)
      optimizer.steps()[static_cast<std::size_t>(own)] = steps[i];
  }
  load_sharded(reader, moments_to_load(model, optimizer), comm);
}

TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm) {
  std::string text;
  on_root(comm, "loading a checkpoint", [&] { text = to_text(load_train_state(*reader)); });
  return train_state_from_text(dist::broadcast_string(comm, text));
}

}  // namespace qat
