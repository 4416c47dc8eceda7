// How our element types and shapes are said in HDF5. Internal to the h5_* files.
#pragma once

#include <cstdint>
#include <optional>

#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/h5_handle.h"

namespace qat {

// The predefined type: little-endian in a file, native in memory. DType::kBFloat16 has none: Error(kInternal).
H5Id h5_type(DType dtype, bool in_file);

// Our name for a type found in a file, whatever its byte order; nothing when there is none.
std::optional<DType> h5_dtype(H5Id type);

// Whole trailing axes while they fit a chunk of a few MiB; the axis that is cut is cut evenly, so that the padding of
// the last chunk stays below one row per chunk. No extent of `shape` is 0.
H5Extents h5_chunk_shape(const Shape& shape, std::int64_t element_bytes);

}  // namespace qat
