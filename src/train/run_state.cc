#include "src/train/run_state.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "src/checkpoint/writer.h"
#include "src/quant/torch_view.h"
#include "src/train/on_root.h"
#include "src/train/owned_state.h"
#include "src/train/range_state.h"

namespace qat {
namespace {

std::vector<std::int64_t> trainable_ids(const Gpt2& model) {
  std::vector<std::int64_t> ids;
  for (int id = 0; id < model.parameters().count(); ++id)
    if (model.parameters().info(id).trainable) ids.push_back(id);
  return ids;
}

// One optimizer moment in host memory: what rank 0 owns of it, then what rank 1 owns, ...
std::vector<float> gather_moment(std::span<const float> shard, const kernels::Exec& exec, dist::Communicator& comm) {
  std::vector<float> mine(shard.size());
  if (exec.device == Device::kCuda) {
    cuda_copy_to_host(mine.data(), shard.data(), shard.size_bytes(), exec.stream);
  } else {
    std::copy(shard.begin(), shard.end(), mine.begin());
  }
  std::vector<float> whole(shard.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(view(std::span<const float>(mine)), view(std::span(whole)));
  return whole;
}

// That of one parameter, whole. by_rank: gather_moment()'s.
std::vector<float> whole_moment(const OptimLayout& layout, const std::vector<std::vector<OwnedPart>>& parts, int tensor,
                                std::span<const float> by_rank) {
  const OptimTensor& which = layout.tensors[static_cast<std::size_t>(tensor)];
  std::vector<float> whole(static_cast<std::size_t>(layout.place(which).elems));
  std::int64_t begin = 0;  // of a rank's
  for (const std::vector<OwnedPart>& of_rank : parts) {
    for (const OwnedPart& part : of_rank)
      if (part.tensor == tensor)
        std::copy_n(by_rank.begin() + begin + part.offset, part.elems, whole.begin() + part.first);
    begin += layout.own_elems();
  }
  return whole;
}

// Host values into part of a shard.
void put_moment(std::span<const float> from, std::span<float> to, const kernels::Exec& exec) {
  if (exec.device == Device::kCuda) {
    cuda_copy_to_device(to.data(), from.data(), from.size_bytes(), exec.stream);
  } else {
    std::copy(from.begin(), from.end(), to.begin());
  }
}

std::string moment_name(const char* moment, const ParameterInfo& info) {
  return std::string("/optimizer/") + moment + "/" + info.name;
}

void write_all(CheckpointWriter& writer, const TrainState& state, Gpt2& model, const ShardedAdamW& optimizer,
               std::span<const float> exp_avg, std::span<const float> exp_avg_sq,
               const std::vector<std::int64_t>& steps, const EvaluationRanges& ranges) {
  save_train_state(writer, state);
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    const std::string name = "/model/" + info.name;
    writer.write_tensor(name, info.shape, std::span<const float>(model.parameters().host_values(id)));
    if (info.shape.size() == 2) writer.set_attribute(name, "layout", std::string("[out, in]"));
  }
  const OptimLayout& layout = optimizer.layout();
  std::vector<std::vector<OwnedPart>> parts;
  for (int rank = 0; rank < layout.ranks; ++rank) parts.push_back(layout.parts_of(rank));
  const auto ids = trainable_ids(model);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const ParameterInfo& info = model.parameters().info(static_cast<int>(ids[i]));
    const auto write = [&](const char* name, std::span<const float> by_rank) {
      const std::vector<float> whole = whole_moment(layout, parts, static_cast<int>(i), by_rank);
      writer.write_tensor(moment_name(name, info), info.shape, std::span<const float>(whole));
    };
    write("exp_avg", exp_avg);
    write("exp_avg_sq", exp_avg_sq);
    writer.write_tensor(moment_name("step", info), {1}, std::span<const std::int64_t>(&steps[i], 1));
  }
  write_ranges(writer, model, ranges);
}

// Broadcasts rank 0's value of a trivially copyable type.
template <typename T>
void broadcast_value(T& value, dist::Communicator& comm) {
  comm.broadcast({&value, sizeof(T), DType::kUInt8, Device::kCpu}, /*root=*/0);
}

}  // namespace

std::filesystem::path save_run(const std::filesystem::path& root, const TrainState& state, Gpt2& model,
                               ShardedAdamW& optimizer, dist::Communicator& comm, const EvaluationRanges& ranges) {
  const kernels::Exec exec = exec_for(model.parameters().tensor(0));
  const std::vector<float> exp_avg = gather_moment(optimizer.exp_avg(), exec, comm);
  const std::vector<float> exp_avg_sq = gather_moment(optimizer.exp_avg_sq(), exec, comm);
  std::filesystem::path folder = root / step_folder_name(state.step);
  on_root(comm, "saving a checkpoint", [&] {
    const auto bytes = static_cast<std::int64_t>(sizeof(float)) *
                       (3 * model.parameters().trainable_elems() + model.parameters().frozen_elems());
    CheckpointWriter writer = CheckpointWriter::begin(root, state.step, bytes);
    write_all(writer, state, model, optimizer, exp_avg, exp_avg_sq, optimizer.steps(), ranges);
    folder = writer.commit().folder;
  });
  return folder;
}

std::vector<std::string> load_model(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm,
                                    LoadFor purpose, const std::string& config_json) {
  ParameterStore& store = model.parameters();
  std::vector<std::string> notes;
  std::int64_t with_ranges = 0;
  on_root(comm, "comparing the checkpoint with the model", [&] {
    notes = check_structure(*reader, config_json, &store, purpose);
    // A new run calibrates for itself: its parameters will be others soon.
    if (purpose != LoadFor::kInitialValues) with_ranges = ranges_fit(*reader, config_json, notes) ? 1 : 0;
  });
  for (int id = 0; id < store.count(); ++id) {
    const ParameterInfo& info = store.info(id);
    std::vector<float> values = store.host_values(id);
    on_root(comm, "loading a checkpoint", [&] {
      const std::string name = "/model/" + info.name;
      if (reader->has_tensor(name)) reader->read_tensor(name, info.shape, std::span(values));
    });
    comm.broadcast(view(std::span(values)), /*root=*/0);
    store.set_values(id, values);
  }
  broadcast_value(with_ranges, comm);
  if (with_ranges != 0) load_ranges(reader, model, comm);
  return notes;
}

void load_optimizer(const CheckpointReader* reader, const Gpt2& model, ShardedAdamW& optimizer,
                    dist::Communicator& comm) {
  const auto ids = trainable_ids(model);
  const kernels::Exec exec = exec_for(model.parameters().tensor(0));
  const std::vector<OwnedState> owned = owned_state(model.parameters(), optimizer);
  auto own = owned.begin();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const ParameterInfo& info = model.parameters().info(static_cast<int>(ids[i]));
    std::vector<float> avg(static_cast<std::size_t>(info.elems)), avg_sq(avg.size());
    on_root(comm, "loading optimizer state", [&] {
      reader->read_tensor(moment_name("exp_avg", info), info.shape, std::span(avg));
      reader->read_tensor(moment_name("exp_avg_sq", info), info.shape, std::span(avg_sq));
      reader->read_tensor(moment_name("step", info), {1}, std::span(&optimizer.steps()[i], 1));
    });
    comm.broadcast(view(std::span(avg)), 0);
    comm.broadcast(view(std::span(avg_sq)), 0);
    broadcast_value(optimizer.steps()[i], comm);
    if (own == owned.end() || own->id != ids[i]) continue;  // others have all of it
    const auto from = static_cast<std::size_t>(own->first), count = static_cast<std::size_t>(own->elems);
    put_moment(std::span(avg).subspan(from, count), own->exp_avg, exec);
    put_moment(std::span(avg_sq).subspan(from, count), own->exp_avg_sq, exec);
    ++own;
  }
}

TrainState load_state(const CheckpointReader* reader, dist::Communicator& comm) {
  std::string text;
  on_root(comm, "loading a checkpoint", [&] { text = to_text(load_train_state(*reader)); });
  return train_state_from_text(dist::broadcast_string(comm, text));
}

}  // namespace qat
