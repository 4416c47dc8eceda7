// How many bytes a model takes at given widths, from plain numbers: what an exported file holds, not an estimate.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace qat {

// How a tensor's codes are stored: its quantizer's.
struct StoredCodes {
  int numbers_per_scale = 1;    // fp32 numbers a group: 1 scale; 2 with a zero point, or log minimum and range
  int extra_bits = 0;           // 1: the log quantizer's "seed" codebook, whose b-bit codes have 2^(b+1) - 1 values
  std::int64_t group_size = 0;  // values of a row that share these numbers; 0: as StorageFormat says
};

// A parameter tensor. Shared ones (a tied head) are listed once.
struct TensorSize {
  enum class Role {
    kLinear,   // weight of a linear layer whose width the precision map sets
    kAdapter,  // LoRA factor: part of the model at quantized widths only
    kOther     // embeddings, norms, biases
  };
  std::string name;
  std::int64_t rows = 1;  // groups of one scale each, where scales are per channel
  std::int64_t cols = 1;
  Role role = Role::kOther;
  int bits = 32;  // 32: stored unquantized
  StoredCodes storage{};
};

struct StorageFormat {
  bool scale_per_row = true;  // else one per tensor
  int unquantized_bytes = 4;  // of one value at 32 bits: 4 fp32, 2 bf16
};

struct SizeReport {
  std::int64_t linear_bytes = 0;   // linear weights: codes packed row by row, and scales
  std::int64_t adapter_bytes = 0;  // with their scales
  std::int64_t other_bytes = 0;
  std::int64_t full_bytes = 0;   // the model without adapters, all unquantized
  double effective_bits = 32.0;  // of a linear weight's code: mean over parameters
  double mean_bits = 32.0;       // mean over linear layers, however large they are

  std::int64_t total_bytes() const noexcept { return linear_bytes + adapter_bytes + other_bytes; }
  // How many times smaller than unquantized.
  double compression() const noexcept;
};

// Adapters are left out if every linear layer has 32 bits: at full precision they are off.
SizeReport size_report(std::span<const TensorSize> tensors, const StorageFormat& format = {});

// Keys and values of `batch` sequences of `tokens` at `bits` each, in bytes.
std::int64_t kv_cache_bytes(std::int64_t layers, std::int64_t width, std::int64_t tokens, std::int64_t batch, int bits);

}  // namespace qat
