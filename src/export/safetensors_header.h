// The head of a safetensors file: 8 bytes of length, little-endian, then so many bytes of JSON,
//
//   {"__metadata__": {"format": "pt"}, "h.0.ln_1.bias": {"dtype": "F32", "shape": [768], "data_offsets": [0, 3072]},
//   ...}
//
// then the tensors' bytes, without a gap, row-major and little-endian; offsets count from the first of them. A file may
// come from anywhere: nothing in it is believed before it has been compared with everything else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/checkpoint/h5_file.h"  // Shape
#include "src/export/float_format.h"

namespace qat {

inline constexpr std::int64_t kSafetensorsLengthBytes = 8;
// Longest header that is read; GPT-2's largest has 0.1 MB.
inline constexpr std::int64_t kMaxSafetensorsHeader = 4 << 20;

struct StoredTensor {
  std::string name;
  std::string dtype;  // "F32", "BF16", "BOOL", ...
  Shape shape;
  std::int64_t elems = 0;
  std::int64_t begin = 0, end = 0;  // bytes, counted from the first tensor's

  std::optional<FloatFormat> format() const;  // none: no fp32, fp16 or bf16 numbers
};

// "a name" as it stands in a message: quoted, of bounded length, on one line.
std::string shown_name(std::string_view name);
std::string shape_text(const Shape& shape);  // "[768, 2304]"

// Ascending in `begin`. Throws Error(kData) that names `source`, and the tensor, unless the header is JSON of this
// form, every tensor's extent is that of its type and shape, and together they are all of the file's `data_bytes`, each
// once.
std::vector<StoredTensor> parse_safetensors_header(std::string_view text, std::int64_t data_bytes,
                                                   const std::string& source);

// The length and the JSON, padded with blanks to a multiple of eight bytes: what the tensors' bytes follow.
std::string safetensors_header(const std::vector<StoredTensor>& tensors);

}  // namespace qat
