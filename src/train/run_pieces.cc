#include "src/train/run_pieces.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "dist/grad/grad_reducer.h"

namespace qat {
namespace {

Device device_of(const Gpt2& model) { return model.parameters().device().is_cuda() ? Device::kCuda : Device::kCpu; }

// What `owned`, a range of a flat buffer, has of a tensor that begins at `offset` there: elements of the tensor.
std::optional<dist::ShardRange> part_of(const dist::ShardRange& owned, std::int64_t offset, std::int64_t elems) {
  const std::int64_t begin = std::max(owned.begin, offset), end = std::min(owned.end, offset + elems);
  if (begin >= end) return std::nullopt;
  return dist::ShardRange{begin - offset, end - offset};
}

TensorPiece parameter_piece(const Gpt2& model, int id, const dist::ShardRange& part) {
  const ParameterInfo& info = model.parameters().info(id);
  const auto* values = static_cast<const float*>(model.parameters().tensor(id).const_data_ptr());
  return {parameter_name(info),
          info.shape,
          part.begin,
          {values + part.begin, part.size(), DType::kFloat32, device_of(model)}};
}

// Calls take(id, its part, where that begins in the rank's shard) for every trained parameter of which this rank owns
// something.
template <typename Take>
void for_each_owned(const Gpt2& model, const ShardedAdamW& optimizer, const Take& take) {
  const std::vector<int> ids = trainable_ids(model);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const OptimSegment& segment = optimizer.segments()[i];
    if (const auto part = part_of(optimizer.shard(), segment.offset, segment.elems))
      take(ids[i], *part, segment.offset + part->begin - optimizer.shard().begin);
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

std::vector<TensorPiece> pieces_to_save(const Gpt2& model, ShardedAdamW& optimizer, const dist::Communicator& comm) {
  std::vector<TensorPiece> pieces;
  for_each_owned(model, optimizer, [&](int id, const dist::ShardRange& part, std::int64_t at) {
    const ParameterInfo& info = model.parameters().info(id);
    const auto moment = [&](const char* name, std::span<const float> shard) {
      pieces.push_back({moment_name(name, info),
                        info.shape,
                        part.begin,
                        {shard.data() + at, part.size(), DType::kFloat32, device_of(model)}});
    };
    pieces.push_back(parameter_piece(model, id, part));
    moment("exp_avg", optimizer.exp_avg());
    moment("exp_avg_sq", optimizer.exp_avg_sq());
  });
  const std::int64_t frozen = model.parameters().frozen_elems();
  const dist::ShardRange mine{frozen * comm.rank() / comm.size(), frozen * (comm.rank() + 1) / comm.size()};
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    if (info.trainable) continue;
    if (const auto part = part_of(mine, info.offset, info.elems)) pieces.push_back(parameter_piece(model, id, *part));
  }
  return pieces;
}

std::vector<PieceTarget> moments_to_load(const Gpt2& model, ShardedAdamW& optimizer) {
  std::vector<PieceTarget> targets;
  for_each_owned(model, optimizer, [&](int id, const dist::ShardRange& part, std::int64_t at) {
    const ParameterInfo& info = model.parameters().info(id);
    const auto moment = [&](const char* name, std::span<float> shard) {
      targets.push_back({moment_name(name, info),
                         info.shape,
                         part.begin,
                         {shard.data() + at, part.size(), DType::kFloat32, device_of(model)}});
    };
    moment("exp_avg", optimizer.exp_avg());
    moment("exp_avg_sq", optimizer.exp_avg_sq());
  });
  return targets;
}

}  // namespace qat
