#include "src/bitmap/bitmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "kernels/common/bit_width.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

constexpr std::int64_t kAttentionLinears = 2;  // of a block's, the first ones
constexpr std::int64_t kEnds = 2;              // blocks at either end that a progressive map treats apart

[[noreturn]] void does_not_fit(const std::string& rule) { throw Error(ErrorKind::kConfig, rule); }

std::string blocks_of(const BitmapShape& shape) {
  return fmt::format("{} block{}", shape.blocks, shape.blocks == 1 ? "" : "s");
}

class Expansion {
 public:
  Expansion(const BitmapText& text, const BitmapShape& shape) : text_(text), shape_(shape) {}

  Bitmap run() {
    switch (text_.form) {
      case BitmapForm::kSame:
      case BitmapForm::kAllBlocks:
        for (std::int64_t block = 0; block < shape_.blocks; ++block) add(text_.blocks[0]);
        break;
      case BitmapForm::kEachBlock:
        if (std::ssize(text_.blocks) != shape_.blocks)
          does_not_fit(fmt::format("must have widths for {}, not for {}", blocks_of(shape_), text_.blocks.size()));
        for (const BlockBits& block : text_.blocks) add(block);
        break;
      case BitmapForm::kLinears:
        linears();
        return std::move(out_);
      case BitmapForm::kStripe:
        for (std::int64_t n = 0; n < shape_.linears(); ++n) out_.linears.push_back({.weight = stripe(n)});
        out_.kv.assign(static_cast<std::size_t>(shape_.blocks), kBitsAsConfigured);
        return std::move(out_);
      case BitmapForm::kAlternating:
        for (std::int64_t block = 0; block < shape_.blocks; ++block)
          add({.attn = number(block % 2), .mlp = number(1 - block % 2)});
        break;
      case BitmapForm::kProgressive:
        progressive();
        break;
    }
    head();
    return std::move(out_);
  }

 private:
  int number(std::int64_t i) const { return text_.numbers[static_cast<std::size_t>(i)]; }
  int stripe(std::int64_t n) const { return number(n % 2 == 0 ? 1 : 0); }

  void add(const BlockBits& block) {
    for (std::int64_t i = 0; i < kLinearsPerBlock; ++i)
      out_.linears.push_back({.weight = i < kAttentionLinears ? block.attn : block.mlp, .activation = block.act});
    out_.kv.push_back(block.kv);
  }

  void linears() {
    if (std::ssize(text_.numbers) != shape_.linears())
      does_not_fit(fmt::format("must list {} widths, {} for each of {}{}, not {}", shape_.linears(), kLinearsPerBlock,
                               blocks_of(shape_), shape_.head_outputs > 0 ? " and one for the head" : "",
                               text_.numbers.size()));
    for (const int bits : text_.numbers) out_.linears.push_back({.weight = bits});
    out_.kv.assign(static_cast<std::size_t>(shape_.blocks), kBitsAsConfigured);
  }

  void progressive() {
    if (shape_.blocks <= 2 * kEnds)
      does_not_fit(fmt::format("needs more than {} blocks: with {} none has the width in the middle, {}", 2 * kEnds,
                               shape_.blocks, number(0)));
    for (std::int64_t block = 0; block < shape_.blocks; ++block) {
      const bool end = block < kEnds || block >= shape_.blocks - kEnds;
      add({.attn = number(end ? 1 : 0), .mlp = number(end ? 1 : 0)});
    }
  }

  void head() {
    const bool by_block = text_.form == BitmapForm::kAllBlocks || text_.form == BitmapForm::kEachBlock;
    if (shape_.head_outputs == 0) {
      if (text_.head) does_not_fit("must not name head: it is quantized with model.quantize_lm_head only");
      return;
    }
    if (by_block && !text_.head) does_not_fit("must name head, as head=8: it is quantized (model.quantize_lm_head)");
    if (text_.head) {
      out_.linears.push_back({.weight = *text_.head, .activation = text_.blocks.back().act});
    } else if (text_.form == BitmapForm::kSame) {
      const BlockBits& block = text_.blocks[0];
      out_.linears.push_back({.weight = std::max(block.attn, block.mlp), .activation = block.act});
    } else {
      out_.linears.push_back({.weight = std::max(number(0), number(1))});
    }
  }

  const BitmapText& text_;
  const BitmapShape& shape_;
  Bitmap out_;
};

// "24x8,24x4": how many neighbours have each width.
std::string runs_text(const std::vector<int>& widths) {
  std::string text;
  for (auto begin = widths.begin(); begin != widths.end();) {
    const auto end = std::find_if(begin, widths.end(), [&](int bits) { return bits != *begin; });
    text += fmt::format("{}{}x{}", text.empty() ? "" : ",", end - begin, *begin);
    begin = end;
  }
  return text;
}

}  // namespace

std::int64_t BitmapShape::macs(std::int64_t linear) const {
  if (linear == kLinearsPerBlock * blocks) return n_embd * head_outputs;
  constexpr std::int64_t kOutputs[kLinearsPerBlock] = {3, 1, 4, 4};  // or inputs, in multiples of n_embd
  return kOutputs[linear % kLinearsPerBlock] * n_embd * n_embd;
}

Bitmap expand(const BitmapText& bitmap, const BitmapShape& shape) { return Expansion(bitmap, shape).run(); }

std::string canonical_text(const Bitmap& bitmap) {
  std::vector<int> weights, activations;
  for (const LinearBits& linear : bitmap.linears)
    weights.push_back(linear.weight), activations.push_back(linear.activation);
  const auto all_open = [](const std::vector<int>& widths) {
    return std::all_of(widths.begin(), widths.end(), [](int bits) { return bits == kBitsAsConfigured; });
  };
  std::string text = runs_text(weights);
  if (!all_open(activations)) text += " act " + runs_text(activations);
  if (!all_open(bitmap.kv)) text += " kv " + runs_text(bitmap.kv);
  return text;
}

std::vector<LinearBits> linear_bits(const BitmapText& bitmap) {
  std::vector<LinearBits> found;
  const auto add = [&](const LinearBits& bits) {
    if (std::find(found.begin(), found.end(), bits) == found.end()) found.push_back(bits);
  };
  for (const int bits : bitmap.numbers) add({.weight = bits});
  for (const BlockBits& block : bitmap.blocks)
    for (const int bits : {block.attn, block.mlp}) add({.weight = bits, .activation = block.act});
  if (bitmap.head) add({.weight = *bitmap.head, .activation = bitmap.blocks.back().act});
  return found;
}

int nominal_width(const Bitmap& bitmap, const BitmapShape& shape) {
  std::map<int, std::int64_t> macs;
  for (std::size_t i = 0; i < bitmap.linears.size(); ++i)
    macs[bitmap.linears[i].weight] += shape.macs(static_cast<std::int64_t>(i));
  int most = BitWidth::kFull;
  std::int64_t most_macs = -1;
  for (const auto& [bits, sum] : macs)  // rising: a tie goes to the later
    if (sum >= most_macs) most = bits, most_macs = sum;
  return most;
}

double mean_width(const Bitmap& bitmap, const BitmapShape& shape) {
  double sum = 0.0, all = 0.0;
  for (std::size_t i = 0; i < bitmap.linears.size(); ++i) {
    const auto macs = static_cast<double>(shape.macs(static_cast<std::int64_t>(i)));
    sum += macs * bitmap.linears[i].weight;
    all += macs;
  }
  return sum / all;
}

}  // namespace qat
