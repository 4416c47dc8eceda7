#include "src/report/model_size.h"

#include <algorithm>
#include <unordered_set>

#include "kernels/common/error.h"

namespace qat {
namespace {

std::int64_t code_bits(const TensorSize& tensor) { return tensor.bits + tensor.storage.extra_bits; }

std::int64_t stored_bytes(const TensorSize& tensor, const StorageFormat& format) {
  if (tensor.bits >= 32) return tensor.rows * tensor.cols * format.unquantized_bytes;
  // Each row begins at a byte, so that rows can be read one by one.
  const std::int64_t codes = tensor.rows * ((tensor.cols * code_bits(tensor) + 7) / 8);
  const std::int64_t a_row = tensor.storage.group_size > 0 ? tensor.cols / tensor.storage.group_size : 1;
  const std::int64_t groups = format.scale_per_row ? tensor.rows * a_row : 1;
  return codes + groups * tensor.storage.numbers_per_scale * 4;
}

}  // namespace

double SizeReport::compression() const noexcept {
  return total_bytes() > 0 ? static_cast<double>(full_bytes) / static_cast<double>(total_bytes()) : 1.0;
}

SizeReport size_report(std::span<const TensorSize> tensors, const StorageFormat& format) {
  const bool full = std::all_of(tensors.begin(), tensors.end(), [](const TensorSize& tensor) {
    return tensor.role != TensorSize::Role::kLinear || tensor.bits >= 32;
  });
  SizeReport report;
  double weighted = 0.0, elements = 0.0, bits = 0.0, layers = 0.0;
  std::unordered_set<std::string> names;
  for (const TensorSize& tensor : tensors) {
    QAT_CHECK(names.insert(tensor.name).second, "tensor " + tensor.name + " is counted twice");
    QAT_CHECK(tensor.rows >= 0 && tensor.cols >= 0, "tensor " + tensor.name + " has a negative size");
    const std::int64_t bytes = stored_bytes(tensor, format);
    if (tensor.role == TensorSize::Role::kAdapter) {
      if (!full) report.adapter_bytes += bytes;
      continue;
    }
    const double count = static_cast<double>(tensor.rows * tensor.cols);
    report.full_bytes += tensor.rows * tensor.cols * format.unquantized_bytes;
    if (tensor.role == TensorSize::Role::kOther) {
      report.other_bytes += bytes;
      continue;
    }
    const double width = tensor.bits >= 32 ? 32.0 : static_cast<double>(code_bits(tensor));
    report.linear_bytes += bytes;
    weighted += count * width;
    elements += count;
    bits += width;
    layers += 1.0;
  }
  if (elements > 0.0) report.effective_bits = weighted / elements;
  if (layers > 0.0) report.mean_bits = bits / layers;
  return report;
}

std::int64_t kv_cache_bytes(std::int64_t layers, std::int64_t width, std::int64_t tokens, std::int64_t batch,
                            int bits) {
  return 2 * layers * width * tokens * batch * bits / 8;
}

}  // namespace qat
