// Row-major element ranges of a tensor as HDF5 selections, and back. Internal to the h5_* files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/h5_handle.h"
#include "src/checkpoint/h5_types.h"

namespace qat {

// A block of a tensor whose elements follow one another in row-major order.
struct Slab {
  H5Extents start, count;  // by axis
  std::int64_t elems = 0;
};

// Elements [first, first + elems) of `shape`, in order, in the fewest blocks: of a matrix the rest of a row, whole
// rows, the beginning of a row. `shape` has an axis, and the elements.
std::vector<Slab> slabs_of(const Shape& shape, std::int64_t first, std::int64_t elems);

H5Handle h5_space(const Shape& shape, const std::filesystem::path& file);
// The same with one block of it selected.
H5Handle h5_space(const Shape& shape, const Slab& slab, const std::filesystem::path& file);

struct ElementRange {
  std::int64_t first = 0;
  std::int64_t elems = 0;
};
// The elements that are selected of a tensor of `shape`; nothing unless they are one such block.
std::optional<ElementRange> selected_range(H5Id space, const Shape& shape, const std::filesystem::path& file);

}  // namespace qat
