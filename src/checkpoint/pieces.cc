#include "src/checkpoint/pieces.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "kernels/common/error.h"

namespace qat {
namespace {

// A line of a list: numbers, and the name, which may contain spaces, to the end of the line.
struct Line {
  std::string name;
  Shape shape;
  DType dtype = DType::kFloat32;
  std::int64_t first = 0;
  std::int64_t elems = 0;
};

Line parse_line(const std::string& text) {
  std::istringstream in(text);
  Line line;
  int dtype = 0;
  std::size_t axes = 0;
  in >> dtype >> line.first >> line.elems >> axes;
  QAT_CHECK(in && axes <= text.size(), "a list of pieces is damaged");
  line.dtype = static_cast<DType>(dtype);
  line.shape.resize(axes);
  for (std::int64_t& extent : line.shape) in >> extent;
  in.get();  // the space before the name
  std::getline(in, line.name);
  QAT_CHECK(!line.name.empty(), "a list of pieces is damaged");
  return line;
}

void require_whole(const ShardedTensor& tensor) {
  std::int64_t end = 0;
  for (const VirtualPart& part : tensor.parts) {
    QAT_CHECK(part.first == end,
              fmt::format("element {} of {} is no rank's, or two ranks'", std::min(end, part.first), tensor.name));
    end += part.elems;
  }
  QAT_CHECK(end == element_count(tensor.shape), fmt::format("element {} of {} is no rank's", end, tensor.name));
}

}  // namespace

std::int64_t ShardedTensor::bytes() const { return element_count(shape) * static_cast<std::int64_t>(size_of(dtype)); }

std::string shard_file_name(std::int64_t rank) { return fmt::format("rank_{:05d}.h5", rank); }

std::string shard_dataset_name(std::string_view tensor, std::int64_t first) {
  return fmt::format("{}@{}", tensor, first);
}

std::string list_pieces(const std::vector<TensorPiece>& pieces) {
  std::string text;
  for (const TensorPiece& piece : pieces) {
    QAT_CHECK(piece.values.elems > 0 && piece.name.find('\n') == std::string::npos, piece.name + " is not a piece");
    text += fmt::format("{} {} {} {} {} {}\n", static_cast<int>(piece.values.dtype), piece.first, piece.values.elems,
                        piece.shape.size(), fmt::join(piece.shape, " "), piece.name);
  }
  return text;
}

std::vector<ShardedTensor> assemble_pieces(const std::vector<std::string>& lists) {
  std::vector<ShardedTensor> tensors;
  std::map<std::string, std::size_t> known;
  for (std::size_t rank = 0; rank < lists.size(); ++rank) {
    std::istringstream in(lists[rank]);
    for (std::string text; std::getline(in, text);) {
      Line line = parse_line(text);
      const auto [found, fresh] = known.emplace(line.name, tensors.size());
      if (fresh) tensors.push_back({.name = line.name, .shape = line.shape, .dtype = line.dtype, .parts = {}});
      ShardedTensor& tensor = tensors[found->second];
      QAT_CHECK(tensor.shape == line.shape && tensor.dtype == line.dtype,
                fmt::format("{} is {} on one rank and {} on rank {}", line.name, describe(tensor.dtype, tensor.shape),
                            describe(line.dtype, line.shape), rank));
      tensor.parts.push_back({.file = shard_file_name(static_cast<std::int64_t>(rank)),
                              .dataset = shard_dataset_name(line.name, line.first),
                              .first = line.first,
                              .elems = line.elems,
                              .source_first = 0});
    }
  }
  for (ShardedTensor& tensor : tensors) {
    std::sort(tensor.parts.begin(), tensor.parts.end(),
              [](const VirtualPart& a, const VirtualPart& b) { return a.first < b.first; });
    require_whole(tensor);
  }
  return tensors;
}

}  // namespace qat
