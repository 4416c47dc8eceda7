// Tensors that are spread over ranks, of which every element says which one it is: what is read at a wrong offset
// shows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/local_comm.h"
#include "src/checkpoint/sharded_load.h"
#include "src/checkpoint/sharded_save.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat::testing {

struct SpreadTensor {
  std::string name;
  Shape shape;
  std::int64_t offset = 0;  // in a flat buffer of all of them
  std::int64_t elems() const { return element_count(shape); }
};

// One flat buffer in buckets, of each of which every rank owns a part: with one bucket, a part of the whole.
class Spread {
 public:
  Spread(std::vector<SpreadTensor> tensors, std::int64_t buckets) : tensors_(std::move(tensors)), buckets_(buckets) {
    for (SpreadTensor& tensor : tensors_) tensor.offset = std::exchange(elems_, elems_ + tensor.elems());
  }
  // Rows that ranks cut anywhere, a tensor of two chunks, one smaller than the number of ranks.
  static Spread usual(std::int64_t buckets) {
    return {{{"/model/transformer.wte.weight", {37, 8}},
             {"/model/a.weight", {5, 7, 3}},
             {"/optimizer/exp_avg/a weight", {11}},
             {"/optimizer/exp_avg/large", {1031, 1033}},
             {"/optimizer/exp_avg_sq/small", {2, 1}}},
            buckets};
  }
  const std::vector<SpreadTensor>& tensors() const { return tensors_; }
  std::int64_t elems() const { return elems_; }
  // Exact in fp32 for flat buffers of up to 16 million elements.
  static float value(std::int64_t flat) { return static_cast<float>(flat) - 1000.0F; }

  // Calls take(tensor, first element in it, elements) for all that `rank` of `size` owns.
  void for_each(int rank, int size,
                const std::function<void(const SpreadTensor&, std::int64_t, std::int64_t)>& take) const {
    for (std::int64_t bucket = 0; bucket < buckets_; ++bucket) {
      const std::int64_t from = elems_ * bucket / buckets_, length = elems_ * (bucket + 1) / buckets_ - from;
      const std::int64_t begin = from + length * rank / size, end = from + length * (rank + 1) / size;
      for (const SpreadTensor& tensor : tensors_) {
        const std::int64_t first = std::max(begin, tensor.offset);
        const std::int64_t last = std::min(end, tensor.offset + tensor.elems());
        if (first < last) take(tensor, first - tensor.offset, last - first);
      }
    }
  }

  // flat: of all elements; a rank's pieces point into it.
  std::vector<TensorPiece> pieces(int rank, int size, const std::vector<float>& flat) const {
    std::vector<TensorPiece> pieces;
    for_each(rank, size, [&](const SpreadTensor& tensor, std::int64_t first, std::int64_t elems) {
      pieces.push_back(
          {tensor.name, tensor.shape, first, {flat.data() + tensor.offset + first, elems, DType::kFloat32}});
    });
    return pieces;
  }
  std::vector<PieceTarget> targets(int rank, int size, std::vector<float>& flat) const {
    std::vector<PieceTarget> targets;
    for_each(rank, size, [&](const SpreadTensor& tensor, std::int64_t first, std::int64_t elems) {
      targets.push_back(
          {tensor.name, tensor.shape, first, {flat.data() + tensor.offset + first, elems, DType::kFloat32}});
    });
    return targets;
  }
  std::vector<float> values() const {
    std::vector<float> flat(static_cast<std::size_t>(elems_));
    for (std::int64_t i = 0; i < elems_; ++i) flat[static_cast<std::size_t>(i)] = value(i);
    return flat;
  }

 private:
  std::vector<SpreadTensor> tensors_;
  std::int64_t buckets_;
  std::int64_t elems_ = 0;
};

// Saves on `ranks` threads. sabotage: called on every rank between the making of the folder and its own writing.
inline std::filesystem::path save_spread(const std::filesystem::path& root, std::int64_t step, const Spread& spread,
                                         int ranks, const std::function<void(int rank)>& sabotage = {}) {
  const std::vector<float> flat = spread.values();
  std::filesystem::path folder;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    const auto rest = [&](CheckpointWriter& writer) {
      writer.set_attribute("/model/transformer.wte.weight", "layout", std::string("vocab,embd"));
      writer.set_attribute("/state", "ranks", std::int64_t{ranks});
    };
    ShardedSave save(root, step, spread.pieces(comm.rank(), ranks, flat), rest, comm);
    if (sabotage) sabotage(comm.rank());
    save.write();
    const std::filesystem::path saved = save.finish();
    if (comm.rank() == 0) folder = saved;
  });
  return folder;
}

// What `ranks` threads load, each its own part.
inline std::vector<float> load_spread(const std::filesystem::path& folder, const Spread& spread, int ranks) {
  std::vector<float> flat(static_cast<std::size_t>(spread.elems()));
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    std::optional<CheckpointReader> reader;
    if (comm.rank() == 0) reader.emplace(CheckpointReader::open(folder));
    load_sharded(reader ? &*reader : nullptr, spread.targets(comm.rank(), ranks, flat), comm);
  });
  return flat;
}

}  // namespace qat::testing
