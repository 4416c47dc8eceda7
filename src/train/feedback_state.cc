#include "src/train/feedback_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "src/checkpoint/sharded_load.h"
#include "src/train/on_root.h"

namespace qat {
namespace {

constexpr char kGroup[] = "/sync/feedback";

std::string feedback_name(std::int64_t rank, const ParameterInfo& info) {
  return fmt::format("{}/{}/{}", kGroup, rank, info.name);
}

Device device_of(const ParameterStore& store) { return store.device().is_cuda() ? Device::kCuda : Device::kCpu; }

// A parameter's part of what is kept; empty: nothing is, or it is never encoded.
std::span<float> residual_of(const ParameterStore& store, GradientSync& gradients, const ParameterInfo& info,
                             bool make) {
  if (!info.trainable || !gradients.keeps_feedback()) return {};
  const auto group = static_cast<std::size_t>(info.group_index);
  const dist::FlatLayout& layout = store.groups()[group].layout;
  const dist::FlatLayout::Tensor& place = layout.tensors()[static_cast<std::size_t>(info.layout_index)];
  const dist::FlatLayout::Bucket& bucket = layout.buckets()[static_cast<std::size_t>(place.bucket)];
  if (bucket.exact) return {};
  const std::span<float> all = gradients.feedback()[group].residual(place.bucket, make);
  if (all.empty()) return {};
  return all.subspan(static_cast<std::size_t>(place.offset - bucket.range.begin), static_cast<std::size_t>(info.elems));
}

// Of a checkpoint: how many replicas had some, and of which parameters.
struct Stored {
  std::int64_t ranks = 0;
  std::vector<std::int64_t> has;  // by parameter of the whole model
};

Stored look_for(const CheckpointReader* reader, const ParameterStore& store, dist::Communicator& comm) {
  Stored stored{.has = std::vector<std::int64_t>(static_cast<std::size_t>(store.count()) + 1)};
  on_root(comm, "looking for error feedback", [&] {
    std::int64_t& ranks = stored.has.back();
    for (const std::string& name : reader->tensor_names(kGroup)) {
      const std::string_view rest = std::string_view(name).substr(sizeof(kGroup));
      std::int64_t rank = -1;
      std::from_chars(rest.data(), rest.data() + rest.size(), rank);
      ranks = std::max(ranks, rank + 1);
    }
    for (int id = 0; id < store.count(); ++id)
      stored.has[static_cast<std::size_t>(id)] = reader->has_tensor(feedback_name(0, store.info(id))) ? 1 : 0;
  });
  comm.broadcast(view(std::span(stored.has)), /*root=*/0);
  stored.ranks = stored.has.back();
  return stored;
}

}  // namespace

std::vector<TensorPiece> feedback_to_save(const ParameterStore& store, GradientSync& gradients, int rank) {
  std::vector<TensorPiece> pieces;
  for (const ParameterInfo& info : store.infos()) {
    const std::span<float> values = residual_of(store, gradients, info, /*make=*/false);
    if (values.empty()) continue;
    pieces.push_back({feedback_name(rank, info),
                      info.shape,
                      0,
                      {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, device_of(store)}});
  }
  return pieces;
}

bool load_feedback(const CheckpointReader* reader, const Gpt2& model, GradientSync& gradients, const dist::Grid& grid) {
  const ParameterStore &whole = model.whole().parameters(), &store = model.parameters();
  const Stored stored = look_for(reader, whole, grid.world());
  if (stored.ranks == 0) return true;
  if (!gradients.keeps_feedback()) return false;
  const std::shared_ptr<dist::FlatMemory> memory = gradients.feedback_memory();
  // The first of them where it belongs, the others beside it.
  for (std::int64_t first = 0; first < stored.ranks; first += grid.data_size()) {
    const std::int64_t from = first + grid.data_rank();
    std::vector<PieceTarget> targets;
    std::vector<std::shared_ptr<float>> beside;
    std::vector<std::span<float>> sums;
    for (const ParameterInfo& info : store.infos()) {
      if (stored.has[static_cast<std::size_t>(whole.find(info.name))] == 0) continue;
      const std::span<float> own = residual_of(store, gradients, info, /*make=*/true);
      if (own.empty() || from >= stored.ranks) continue;
      float* to = own.data();
      if (first > 0) {
        beside.push_back(memory->allocate(info.elems));
        to = beside.back().get();
        sums.push_back(own);
      }
      targets.push_back(
          {feedback_name(from, info), info.shape, 0, {to, info.elems, DType::kFloat32, device_of(store)}});
    }
    memory->wait();  // what is read does not come on its stream
    load_sharded(reader, targets, grid.world());
    for (std::size_t i = 0; i < sums.size(); ++i) memory->add(sums[i], {beside[i].get(), sums[i].size()});
    memory->wait();
  }
  return true;
}

}  // namespace qat
