#include "src/cost/known_gpus.h"

#include <algorithm>
#include <cctype>

namespace qat {
namespace {

// Steps of 65,536 tokens of GPT-2 124M, kernel by kernel (benchmarks/README.md), and products of GPT-2's shapes: 1,020
// to 1,307 TFLOP/s on codes, 694 to 707 in bf16. Attention is cuDNN's at 1,024 tokens: 0.313 ms forward and 1.127
// backward (1.243 repeatable) of 64 sequences of 12 heads. bytes is what its kernels reach, 87 % of the 3.0 TB/s of a
// copy.
DeviceRates h100_rates() {
  return {.name = "H100",
          .code_products = 1190e12,
          .wide_products = 700e12,
          .bf16_products = 700e12,
          .head_products = 763e12,
          .tf32_products = 350e12,
          .fp32_products = 45e12,
          .attention_forward = 329e12,
          .attention_backward = 229e12,
          .repeatable_attention_backward = 207e12,
          .bytes = 2.65e12,
          // From steps of passes of 8 to 64 sequences.
          .part_forward_s = 0.15e-3,
          .part_backward_s = 0.29e-3};
}

// What the makers' data sheets say: operations a second on dense operands, bytes a second, one direction of the link
// between the GPUs of a host.
struct DataSheet {
  const char* name;
  double memory_gib;                                      // as CUDA reports it
  double int8 = 0.0, bf16 = 0.0, tf32 = 0.0, fp32 = 0.0;  // 1e12
  double memory = 0.0;                                    // TB/s
  double link = 0.0;                                      // GB/s
  bool hopper = false;  // has this program's own kernels for integer products (kernels/gemm)
};

constexpr DataSheet kSheets[] = {
    {"A10", 22.0, 250, 125, 62.5, 31.2, 0.6, 32},
    {"A10G", 22.0, 250, 125, 62.5, 31.2, 0.6, 32},
    {"A100", 79.1, 624, 312, 156, 19.5, 2.039, 300},
    {"A100 40GB", 39.4, 624, 312, 156, 19.5, 1.555, 300},
    {"B200", 178.0, 4500, 2250, 1125, 75, 7.7, 900},
    {"H100", 79.1, 1979, 989, 495, 67, 3.35, 450, true},
    {"H100 PCIe", 79.1, 1513, 756, 378, 51, 2.0, 64, true},
    {"H200", 139.8, 1979, 989, 495, 67, 4.8, 450, true},
    {"L4", 22.0, 242, 121, 60, 30.3, 0.3, 32},
    {"L40S", 44.4, 733, 362, 183, 91.6, 0.864, 32},
    {"RTX 4090", 23.5, 660, 165, 82.6, 82.6, 1.008, 32},
};

const DataSheet& h100_sheet() {
  return *std::find_if(std::begin(kSheets), std::end(kSheets),
                       [](const DataSheet& sheet) { return std::string_view(sheet.name) == "H100"; });
}

// Of the H100 what was measured; of the others as much of their data sheets as the H100 reached of its own. Without
// kernels of this program's own, integer products are cuBLASLt's: 600e12 on the H100.
KnownGpu known(const DataSheet& sheet) {
  const DataSheet& h100 = h100_sheet();
  const DeviceRates measured = h100_rates();
  DeviceRates rates = measured;
  rates.name = sheet.name;
  const auto scale = [](double& rate, double by) { rate *= by; };
  if (!sheet.hopper) rates.code_products = 600e12;
  scale(rates.code_products, sheet.int8 / h100.int8);
  for (double* rate : {&rates.wide_products, &rates.bf16_products, &rates.head_products, &rates.attention_forward,
                       &rates.attention_backward, &rates.repeatable_attention_backward})
    scale(*rate, sheet.bf16 / h100.bf16);
  scale(rates.tf32_products, sheet.tf32 / h100.tf32);
  scale(rates.fp32_products, sheet.fp32 / h100.fp32);
  scale(rates.bytes, sheet.memory / h100.memory);
  if (sheet.name != std::string_view("H100")) rates.source = "data sheet, at the H100's share of it";
  // Two H200s exchanged 508 MB in 4.1 ms, sums and latencies included: 0.28 of their link. (What a step of an earlier
  // commit took longer on two than on one; no step that benchmarks/README.md compares with predictions.)
  Links links{.node_bytes = 0.28e9 * sheet.link};
  return {.name = sheet.name,
          .memory_bytes = static_cast<std::int64_t>(sheet.memory_gib * (1 << 30)),
          .rates = std::move(rates),
          .links = links};
}

const std::vector<KnownGpu>& all_gpus() {
  static const std::vector<KnownGpu> all = [] {
    std::vector<KnownGpu> gpus;
    for (const DataSheet& sheet : kSheets) gpus.push_back(known(sheet));
    return gpus;
  }();
  return all;
}

// "NVIDIA A100-SXM4-80GB" -> nvidia, a100, sxm4, 80gb.
std::vector<std::string> words_of(const std::string& name) {
  std::vector<std::string> words;
  bool inside = false;
  for (const char c : name) {
    const auto letter = static_cast<unsigned char>(c);
    if (std::isalnum(letter) == 0) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    inside = true;
    words.back().push_back(static_cast<char>(std::tolower(letter)));
  }
  return words;
}

}  // namespace

const KnownGpu* find_gpu(const std::string& gpu_name) {
  const std::vector<std::string> words = words_of(gpu_name);
  const KnownGpu* best = nullptr;
  std::size_t most = 0;
  for (const KnownGpu& gpu : all_gpus()) {
    const std::vector<std::string> parts = words_of(gpu.name);
    const bool all = std::all_of(parts.begin(), parts.end(), [&](const std::string& part) {
      return std::find(words.begin(), words.end(), part) != words.end();
    });
    if (!all || parts.size() <= most) continue;
    best = &gpu;
    most = parts.size();
  }
  return best;
}

std::string known_gpu_names() {
  std::string names;
  for (const KnownGpu& gpu : all_gpus()) names += (names.empty() ? "" : ", ") + gpu.name;
  return names;
}

}  // namespace qat
