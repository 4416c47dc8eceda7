#include "src/checkpoint/h5_types.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <type_traits>

#include "kernels/common/error.h"

namespace qat {

static_assert(std::is_same_v<hsize_t, H5Size>);

namespace {

// Large enough that the per-chunk work of HDF5 vanishes, small enough that its copy of a chunk stays cheap.
constexpr std::int64_t kChunkBytes = 4 << 20;

struct DTypeEntry {
  DType dtype;
  const char* name;
  H5T_class_t cls;
  H5T_sign_t sign;
};
constexpr std::array<DTypeEntry, 6> kDTypes = {{
    {DType::kFloat32, "float32", H5T_FLOAT, H5T_SGN_ERROR},
    {DType::kFloat64, "float64", H5T_FLOAT, H5T_SGN_ERROR},
    {DType::kInt8, "int8", H5T_INTEGER, H5T_SGN_2},
    {DType::kInt32, "int32", H5T_INTEGER, H5T_SGN_2},
    {DType::kInt64, "int64", H5T_INTEGER, H5T_SGN_2},
    {DType::kUInt8, "uint8", H5T_INTEGER, H5T_SGN_NONE},
}};

std::string_view name_of(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "bfloat16";
}

}  // namespace

// The identifiers behind H5T_NATIVE_* are run-time values, so these cannot stand in the table.
H5Id h5_type(DType dtype, bool in_file) {
  switch (dtype) {
    case DType::kFloat32:
      return in_file ? H5T_IEEE_F32LE : H5T_NATIVE_FLOAT;
    case DType::kFloat64:
      return in_file ? H5T_IEEE_F64LE : H5T_NATIVE_DOUBLE;
    case DType::kInt8:
      return in_file ? H5T_STD_I8LE : H5T_NATIVE_INT8;
    case DType::kInt32:
      return in_file ? H5T_STD_I32LE : H5T_NATIVE_INT32;
    case DType::kInt64:
      return in_file ? H5T_STD_I64LE : H5T_NATIVE_INT64;
    case DType::kUInt8:
      return in_file ? H5T_STD_U8LE : H5T_NATIVE_UINT8;
    case DType::kBFloat16:
      break;
  }
  fail_internal("dtype", "bfloat16 tensors are saved as float32", __FILE__, __LINE__);
}

std::optional<DType> h5_dtype(H5Id type) {
  const H5T_class_t cls = H5Tget_class(type);
  const H5T_sign_t sign = cls == H5T_INTEGER ? H5Tget_sign(type) : H5T_SGN_ERROR;
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.cls == cls && entry.sign == sign && size_of(entry.dtype) == H5Tget_size(type)) return entry.dtype;
  }
  return std::nullopt;
}

H5Extents h5_chunk_shape(const Shape& shape, std::int64_t element_bytes) {
  H5Extents chunk(shape.size(), 1);
  std::int64_t inner_bytes = element_bytes;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const std::int64_t fitting = std::max<std::int64_t>(1, kChunkBytes / inner_bytes);
    const std::int64_t pieces = (shape[axis] + fitting - 1) / fitting;
    chunk[axis] = static_cast<H5Size>((shape[axis] + pieces - 1) / pieces);
    if (pieces > 1) break;
    inner_bytes *= shape[axis];
  }
  return chunk;
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) {
    QAT_CHECK(extent >= 0, "an axis of a tensor is negative");
    QAT_CHECK(extent == 0 || count <= std::numeric_limits<std::int64_t>::max() / extent, "a tensor's size overflows");
    count *= extent;
  }
  return count;
}

std::string describe(DType dtype, const Shape& shape) {
  return fmt::format("{} [{}]", name_of(dtype), fmt::join(shape, ", "));
}

}  // namespace qat
