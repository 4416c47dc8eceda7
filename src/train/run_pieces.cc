#include "src/train/run_pieces.h"

#include <algorithm>

#include "src/quant/torch_view.h"
#include "src/train/owned_state.h"

namespace qat {
namespace {

// Elements of a parameter, or of one of its moments, from `first` on.
template <typename Piece, typename T>
Piece piece_of(std::string name, const ParameterInfo& info, std::int64_t first, std::span<T> values, Device device) {
  return {std::move(name),
          info.shape,
          first,
          {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, device}};
}

Device device_of(const Gpt2& model) { return model.parameters().device().is_cuda() ? Device::kCuda : Device::kCpu; }

// This rank's part of the stage's frozen parameters, of which every rank of the stage has all.
void add_frozen(const Gpt2& model, const dist::Communicator& data, std::vector<TensorPiece>& pieces) {
  const ParameterStore& store = model.parameters();
  std::int64_t all = 0;
  for (const ParameterInfo& info : store.infos()) all += info.trainable || info.copy ? 0 : info.elems;
  const std::int64_t begin = all * data.rank() / data.size(), end = all * (data.rank() + 1) / data.size();
  std::int64_t offset = 0;  // of a parameter among the frozen ones
  for (int id = 0; id < store.count(); ++id) {
    const ParameterInfo& info = store.info(id);
    if (info.trainable || info.copy) continue;
    const std::int64_t first = std::max(begin - offset, std::int64_t{0}), last = std::min(end - offset, info.elems);
    offset += info.elems;
    if (first >= last) continue;
    const std::span<const float> values =
        const_span(store.tensor(id)).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    pieces.push_back(piece_of<TensorPiece>(parameter_name(info), info, first, values, device_of(model)));
  }
}

}  // namespace

std::string parameter_name(const ParameterInfo& info) { return "/model/" + info.name; }

std::string moment_name(const char* moment, const ParameterInfo& info) {
  return std::string("/optimizer/") + moment + "/" + info.name;
}

std::vector<int> trainable_ids(const Gpt2& model) {
  std::vector<int> ids;
  for (int id = 0; id < model.parameters().count(); ++id)
    if (model.parameters().info(id).trainable) ids.push_back(id);
  return ids;
}

std::vector<TensorPiece> pieces_to_save(const Gpt2& model, ShardedAdamW& optimizer, const dist::Communicator& data) {
  std::vector<TensorPiece> pieces;
  for (const OwnedState& own : owned_state(model.parameters(), optimizer)) {
    const ParameterInfo& info = model.parameters().info(own.id);
    const auto add = [&](std::string name, std::span<const float> values) {
      pieces.push_back(piece_of<TensorPiece>(std::move(name), info, own.first, values, device_of(model)));
    };
    add(parameter_name(info), own.values);
    add(moment_name("exp_avg", info), own.exp_avg);
    add(moment_name("exp_avg_sq", info), own.exp_avg_sq);
  }
  add_frozen(model, data, pieces);
  return pieces;
}

std::vector<PieceTarget> moments_to_load(const Gpt2& model, ShardedAdamW& optimizer) {
  std::vector<PieceTarget> targets;
  for (const OwnedState& own : owned_state(model.parameters(), optimizer)) {
    const ParameterInfo& info = model.parameters().info(own.id);
    const auto add = [&](const char* moment, std::span<float> values) {
      targets.push_back(piece_of<PieceTarget>(moment_name(moment, info), info, own.first, values, device_of(model)));
    };
    add("exp_avg", own.exp_avg);
    add("exp_avg_sq", own.exp_avg_sq);
  }
  return targets;
}

}  // namespace qat
