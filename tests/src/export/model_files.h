// Files of transformers made by hand, byte by byte: what is read must not be what this program's own writer thinks.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/export/gpt2_tensors.h"

namespace qat {

struct MadeTensor {
  std::string name, dtype;
  Shape shape;
  std::string bytes;
};

inline std::string bytes_of_floats(const std::vector<float>& values) {
  std::string out(values.size() * sizeof(float), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

// bf16 numbers: the upper halves.
inline std::string upper_halves(const std::vector<float>& values) {
  std::string out;
  const std::string all = bytes_of_floats(values);
  for (std::size_t i = 0; i < all.size(); i += 4) out += all.substr(i + 2, 2);
  return out;
}

inline std::string with_length(const std::string& header) {
  const std::uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header;
}

inline std::string list_text(const Shape& numbers) {
  std::string text;
  for (const std::int64_t number : numbers) text += (text.empty() ? "" : ",") + std::to_string(number);
  return "[" + text + "]";
}

inline std::string entry(const std::string& name, const std::string& dtype, const Shape& shape, std::int64_t begin,
                         std::int64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + list_text(shape) +
         ",\"data_offsets\":" + list_text({begin, end}) + "}";
}

inline std::string safetensors_bytes(const std::vector<MadeTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const MadeTensor& tensor : tensors) {
    const auto begin = static_cast<std::int64_t>(data.size());
    data += tensor.bytes;
    header += "," + entry(tensor.name, tensor.dtype, tensor.shape, begin, static_cast<std::int64_t>(data.size()));
  }
  return with_length(header + "}") + data;
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A GPT-2 of 2 blocks x 8 wide with values that tell every element from every other, exact in bf16 and fp16.
struct TinyGpt2 {
  Gpt2Config config = sizes();
  std::string config_json =
      R"({"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 6, "vocab_size": 11})";

  static Gpt2Config sizes() {
    Gpt2Config config;
    config.n_layer = 2;
    config.n_head = 2;
    config.n_embd = 8;
    config.n_positions = 6;
    config.vocab_size = 11;
    return config;
  }
  // Of a tensor as it is stored, row-major.
  static std::vector<float> values(const std::string& name, std::int64_t elems) {
    std::vector<float> out;
    const auto salt = static_cast<std::int64_t>(std::hash<std::string>()(name) % 97);
    for (std::int64_t i = 0; i < elems; ++i) out.push_back(static_cast<float>((i * 31 + salt) % 251 - 125) / 64.0F);
    return out;
  }
  // With names as transformers writes them, or without their prefix.
  std::vector<MadeTensor> tensors(bool prefix = true) const {
    std::vector<MadeTensor> out;
    for (const Gpt2Tensor& tensor : gpt2_tensors(config)) {
      const bool strip = !prefix && tensor.name.starts_with(kTransformerPrefix);
      out.push_back({strip ? tensor.name.substr(std::strlen(kTransformerPrefix)) : tensor.name, "F32",
                     tensor.stored_shape(), bytes_of_floats(values(tensor.name, element_count(tensor.shape)))});
    }
    return out;
  }
  void write(const std::filesystem::path& folder, const std::vector<MadeTensor>& tensors) const {
    std::filesystem::create_directories(folder);
    write_bytes(folder / "config.json", config_json);
    write_bytes(folder / "model.safetensors", safetensors_bytes(tensors));
  }
};

}  // namespace qat
