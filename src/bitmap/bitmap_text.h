// The precision of a whole model as users write it: in quant.maps, eval.maps, precision.static_at, after --bitmap.
//
//   4                              every quantized linear layer at 4 bits; 0 and 32: unquantized
//   4-8-8, W4A8KV8                 weights, activations, keys and values; also FP32, FP16, INT8, INT6, INT4, INT2
//   8,8,4,...                      one width for each linear layer, four a block in order of use, then a quantized head
//   stripe8&4                      linear layer n: even 4, odd 8
//   alternating_8_4                even blocks: attention 8, MLP 4; odd blocks the other way round
//   progressive_4_8                first and last two blocks at 8, the others at 4
//   attention_focused              attention 8, MLP 4
//   mlp_focused                    attention 4, MLP 8
//   attn=8,mlp=4,act=8,kv=8        every block; act and kv may be left out, head=8 is needed where it is quantized
//   attn=8,mlp=4;attn=4,mlp=4;...  one such for each block, and then head=8; or as JSON: [{"attn": 8, "mlp": 4}, ...]
//
// Any of them may have a name in front, by which metrics and tables call it: "mine: 8,8,4,4,...". A head that is
// quantized takes the larger of a pattern's widths.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace qat {

// Of what a map leaves open: the activations have the width that quant.activation_bits says, keys and values
// quant.kv_bits.
constexpr int kBitsAsConfigured = 0;

// Widths of a block: 2..18, or 32 for what is not quantized.
struct BlockBits {
  int attn = 32;  // weights of attn.c_attn and attn.c_proj
  int mlp = 32;   // weights of mlp.c_fc and mlp.c_proj
  int act = kBitsAsConfigured;
  int kv = kBitsAsConfigured;
  friend bool operator==(const BlockBits&, const BlockBits&) = default;
};

enum class BitmapForm : unsigned char {
  kSame,         // blocks[0] is every block's; a quantized head has the larger of its weight widths
  kAllBlocks,    // the same, but that a quantized head needs `head`
  kEachBlock,    // blocks[i] is block i's; a quantized head needs `head`
  kLinears,      // numbers[n] is linear layer n's
  kStripe,       // numbers: of odd layers, of even layers
  kAlternating,  // numbers: attention's in even blocks, the MLP's
  kProgressive   // numbers: of the blocks in the middle, of the first and last two
};

// A map that has been read, but not yet laid over a model.
struct BitmapText {
  std::string name;  // the one in front, or else the text
  std::string text;  // without it
  BitmapForm form = BitmapForm::kSame;
  std::vector<BlockBits> blocks;
  std::optional<int> head;
  std::vector<int> numbers;
};

// Throws Error(kConfig) with a rule that follows the offending value: "must be ...".
BitmapText parse_bitmap(const std::string& text);

// Whether it names widths for weights, activations, keys and values: "INT4", "W4A8KV8", "4-8-8".
bool is_named_configuration(const std::string& text);
// The known names of that kind, comma-separated, for messages.
std::string named_configurations();

// Every width below 32 that the map gives weights, rising. What expand() accepts uses all of them.
std::vector<int> weight_widths(const BitmapText& bitmap);

}  // namespace qat
