// What a checkpoint knows of tensors that are spread over ranks: every rank has pieces, ranges of a tensor's elements,
// wherever it keeps them. How parameters are cut over ranks is not known here (src/train/run_pieces.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/view.h"
#include "src/checkpoint/h5_file.h"

namespace qat {

// Elements [first, first + values.elems) of a tensor in row-major order, to be saved. Not empty; on either device.
struct TensorPiece {
  std::string name;  // in the checkpoint: "/model/transformer.wte.weight"
  Shape shape;       // of the whole tensor
  std::int64_t first = 0;
  ConstBufferView values;
};

// The same, to be loaded.
struct PieceTarget {
  std::string name;
  Shape shape;
  std::int64_t first = 0;
  BufferView values;
};

// A tensor in the files of all ranks.
struct ShardedTensor {
  std::string name;
  Shape shape;
  DType dtype = DType::kFloat32;
  std::vector<VirtualPart> parts;  // ascending
  std::int64_t bytes() const;
};

std::string shard_file_name(std::int64_t rank);  // rank_00003.h5
// A piece's dataset in that file: "/model/transformer.wte.weight@12582912", after its first element.
std::string shard_dataset_name(std::string_view tensor, std::int64_t first);

// Where this rank's pieces are, as text for the rank that assembles.
std::string list_pieces(const std::vector<TensorPiece>& pieces);
// lists: element r is rank r's. Tensors in order of first mention. Throws Error(kInternal) unless the pieces of every
// tensor are its elements, each once.
std::vector<ShardedTensor> assemble_pieces(const std::vector<std::string>& lists);

}  // namespace qat
