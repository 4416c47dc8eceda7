// Codes of 9 to 11 bits on a GPU whose activations are bf16: nothing of the codes is lost.
#include "src/quant/wide_codes.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "src/quant/quantizer.h"
#include "src/quant/torch_device.h"

namespace qat {
namespace {

at::Tensor values(const WideCoded& coded) {
  return coded.codes.to(at::kCPU, at::kDouble) * coded.scales.to(at::kCPU, at::kDouble).unsqueeze(1);
}

TEST(WideCodesCuda, OnlyTheResultIsRoundedToBf16) {
  use_cuda(0);
  torch::manual_seed(31);
  const at::Tensor x = at::randn({96, 768}).to(at::kBFloat16), w = at::randn({40, 768}) * 0.02;
  const Quantizer by_token("layer", "activation", {.granularity = Granularity::kToken});
  const Quantizer by_channel("layer", "weight", {.granularity = Granularity::kChannel});
  for (const int bits : {9, 11}) {
    SCOPED_TRACE(bits);
    const at::Tensor x_gpu = x.to(at::kCUDA), w_gpu = w.to(at::kCUDA);
    const WideCoded xq = by_token.encode_wide(x_gpu, BitWidth(bits)),
                    wq = by_channel.encode_wide(w_gpu, BitWidth(bits));
    EXPECT_TRUE(at::equal(xq.codes.cpu(), by_token.encode_wide(x.to(at::kFloat), BitWidth(bits)).codes));
    EXPECT_TRUE(at::equal(wq.codes.cpu(), by_channel.encode_wide(w, BitWidth(bits)).codes));

    const at::Tensor y = wide_code_matmul(xq, wq, {}, at::kBFloat16).to(at::kCPU, at::kDouble);
    const at::Tensor want = at::mm(values(xq), values(wq).t());
    // Relative to each element, also where the sum nearly cancels: operands rounded to bf16 would miss by far there.
    const at::Tensor most = want.abs() * 0x1p-8 + want.abs().mean() * 1e-5;
    EXPECT_TRUE(((y - want).abs() <= most).all().item<bool>());
  }
}

}  // namespace
}  // namespace qat
