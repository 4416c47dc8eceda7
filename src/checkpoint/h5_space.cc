#include "src/checkpoint/h5_space.h"

#include <hdf5.h>

#include <algorithm>

#include "kernels/common/error.h"

namespace qat {
namespace {

std::int64_t row_major(const H5Extents& at, const Shape& shape) {
  std::int64_t index = 0;
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    index = index * shape[axis] + static_cast<std::int64_t>(at[axis]);
  return index;
}

}  // namespace

std::vector<Slab> slabs_of(const Shape& shape, std::int64_t first, std::int64_t elems) {
  QAT_CHECK(!shape.empty() && first >= 0 && elems >= 0 && first <= element_count(shape) - elems,
            "a range of elements lies within its tensor");
  std::vector<Slab> slabs;
  while (elems > 0) {
    Slab slab{.start = H5Extents(shape.size()), .count = H5Extents(shape.size(), 1), .elems = 1};
    std::int64_t rest = first;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      slab.start[axis] = static_cast<H5Size>(rest % shape[axis]);
      rest /= shape[axis];
    }
    // Outwards for as long as an axis is taken whole.
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      const std::int64_t left = shape[axis] - static_cast<std::int64_t>(slab.start[axis]);
      const std::int64_t taken = std::min(left, elems / slab.elems);
      slab.count[axis] = static_cast<H5Size>(taken);
      slab.elems *= taken;
      if (taken < shape[axis]) break;
    }
    first += slab.elems;
    elems -= slab.elems;
    slabs.push_back(std::move(slab));
  }
  return slabs;
}

H5Handle h5_space(const Shape& shape, const std::filesystem::path& file) {
  if (shape.empty()) return {QAT_H5_CHECK(H5Screate(H5S_SCALAR), file), H5Sclose};
  const H5Extents dims(shape.begin(), shape.end());
  return {QAT_H5_CHECK(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), file), H5Sclose};
}

H5Handle h5_space(const Shape& shape, const Slab& slab, const std::filesystem::path& file) {
  H5Handle space = h5_space(shape, file);
  QAT_H5_CHECK(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, slab.start.data(), /*stride=*/nullptr,
                                   slab.count.data(), /*block=*/nullptr),
               file);
  return space;
}

std::optional<ElementRange> selected_range(H5Id space, const Shape& shape, const std::filesystem::path& file) {
  const std::int64_t elems = QAT_H5_CHECK(H5Sget_select_npoints(space), file);
  if (elems <= 0 || shape.empty()) return std::nullopt;
  H5Extents start(shape.size()), last(shape.size());
  QAT_H5_CHECK(H5Sget_select_bounds(space, start.data(), last.data()), file);
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    if (last[axis] >= static_cast<hsize_t>(shape[axis])) return std::nullopt;
  const std::int64_t first = row_major(start, shape);
  if (row_major(last, shape) - first + 1 != elems) return std::nullopt;
  return ElementRange{first, elems};
}

}  // namespace qat
