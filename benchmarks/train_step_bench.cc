// A training step of the quickstart model at 8 bits, beside the same model and batch in LibTorch eager with fake
// quantization (what a PyTorch user writes, without Python's overhead): one process, one thread count, turn by turn.
//
//   build/train_step_bench [--threads N] [--steps N] [--layers N] [--width N] [--sequence N] [--micro-batch N]
//
// Prints the median step time of both and their ratio, and a JSON line.
#include <fmt/format.h>
#include <malloc.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "dist/comm/local_comm.h"
#include "src/data/builtin_text.h"
#include "src/data/sampler.h"
#include "src/train/batch.h"
#include "src/train/step_runner.h"

namespace {

struct Setting {
  int threads = 2, steps = 15, bits = 8;
  std::int64_t layers = 4, heads = 4, width = 128, sequence = 128, micro_batch = 4, batch = 16, rank = 8;
};

// Symmetric fake quantization, one dynamic scale per row, straight-through gradient.
at::Tensor fake_quant(const at::Tensor& x, int bits) {
  const double q_max = (1 << (bits - 1)) - 1;
  const at::Tensor scale = x.detach().abs().amax(-1, /*keepdim=*/true).clamp_min(1e-5) / q_max;
  const at::Tensor quantized = at::clamp(at::round(x.detach() / scale), -q_max, q_max) * scale;
  return x + (quantized - x).detach();
}

struct EagerLinear : torch::nn::Module {
  EagerLinear(std::int64_t in, std::int64_t out, const Setting& s) : bits(s.bits) {
    weight = register_parameter("weight", at::randn({out, in}) * 0.02);
    bias = register_parameter("bias", at::zeros({out}));
    a = register_parameter("a", at::randn({s.rank, in}) * 0.02);
    b = register_parameter("b", at::zeros({out, s.rank}));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor xq = fake_quant(x, bits);
    return at::linear(xq, fake_quant(weight, bits), bias) +
           at::linear(at::linear(xq, fake_quant(a, bits)), fake_quant(b, bits) * 2.0);
  }
  int bits;
  at::Tensor weight, bias, a, b;
};

struct EagerBlock : torch::nn::Module {
  explicit EagerBlock(const Setting& s) : heads(s.heads) {
    const auto norm = [&] { return torch::nn::LayerNorm(torch::nn::LayerNormOptions({s.width})); };
    ln_1 = register_module("ln_1", norm());
    ln_2 = register_module("ln_2", norm());
    c_attn = register_module("c_attn", std::make_shared<EagerLinear>(s.width, 3 * s.width, s));
    attn_proj = register_module("attn_proj", std::make_shared<EagerLinear>(s.width, s.width, s));
    c_fc = register_module("c_fc", std::make_shared<EagerLinear>(s.width, 4 * s.width, s));
    mlp_proj = register_module("mlp_proj", std::make_shared<EagerLinear>(4 * s.width, s.width, s));
  }
  at::Tensor forward(at::Tensor x) {
    const auto b = x.size(0), t = x.size(1), d = x.size(2);
    const auto qkv = c_attn->forward(ln_1->forward(x)).split(d, 2);
    const auto head = [&](const at::Tensor& p) { return p.view({b, t, heads, d / heads}).transpose(1, 2); };
    const auto out = at::scaled_dot_product_attention(head(qkv[0]), head(qkv[1]), head(qkv[2]), {}, 0.0, true);
    x = x + attn_proj->forward(out.transpose(1, 2).reshape({b, t, d}));
    return x + mlp_proj->forward(at::gelu(c_fc->forward(ln_2->forward(x)), "tanh"));
  }
  std::int64_t heads;
  torch::nn::LayerNorm ln_1{nullptr}, ln_2{nullptr};
  std::shared_ptr<EagerLinear> c_attn, attn_proj, c_fc, mlp_proj;
};

struct EagerGpt2 : torch::nn::Module {
  explicit EagerGpt2(const Setting& s) {
    wte = register_parameter("wte", at::randn({257, s.width}) * 0.02);
    wpe = register_parameter("wpe", at::randn({s.sequence, s.width}) * 0.02);
    for (std::int64_t i = 0; i < s.layers; ++i)
      blocks.push_back(register_module("h" + std::to_string(i), std::make_shared<EagerBlock>(s)));
    ln_f = register_module("ln_f", torch::nn::LayerNorm(torch::nn::LayerNormOptions({s.width})));
  }
  at::Tensor loss(const qat::Batch& batch) {
    at::Tensor x = at::embedding(wte, batch.inputs) + wpe;
    for (auto& block : blocks) x = block->forward(x);
    return torch::nn::functional::cross_entropy(at::linear(ln_f->forward(x), wte).reshape({-1, 257}),
                                                batch.targets.reshape({-1}));
  }
  at::Tensor wte, wpe;
  std::vector<std::shared_ptr<EagerBlock>> blocks;
  torch::nn::LayerNorm ln_f{nullptr};
};

double seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void run(const Setting& s) {
  const qat::TokenSource tokens = qat::builtin_text(qat::Split::kTrain);
  const qat::Sampler sampler(tokens, s.sequence, /*seed=*/1);

  const qat::Gpt2Config config{
      .n_layer = s.layers, .n_head = s.heads, .n_embd = s.width, .n_positions = s.sequence, .vocab_size = 257};
  const qat::LoraConfig lora{.rank = s.rank, .alpha = 2.0 * static_cast<double>(s.rank)};
  const qat::QuantConfig quant;
  const auto comm = qat::dist::make_single_comm();
  qat::Gpt2 model(config, lora, quant, qat::StepRunner::padding(1));
  model.init_random(1);
  qat::StepRunner runner(model, sampler, *comm,
                         {.seed = 1,
                          .sequence_length = s.sequence,
                          .train = {.batch_size = s.batch, .micro_batch_size = s.micro_batch},
                          .threads = s.threads});
  const std::vector maps = {qat::PrecisionMap::uniform(config.linears(), s.bits, s.bits, /*gradient=*/8)};

  EagerGpt2 eager(s);
  torch::optim::AdamW optimizer(eager.parameters(), torch::optim::AdamWOptions(1e-3).weight_decay(0.1));
  const std::int64_t passes = s.batch / s.micro_batch;

  qat::dist::StopPoll never(*comm);
  std::vector<double> ours, theirs;
  for (int step = 0; step < s.steps + 3; ++step) {  // the first three warm up
    const auto index = static_cast<std::uint64_t>(step);
    at::set_num_threads(1);  // ours runs micro-batches side by side
    const double mine = seconds([&] {
      runner.run({.step = index,
                  .maps = {{.weight_bits = s.bits, .activation_bits = s.bits, .gradient_bits = 8}},
                  .updates = {{.passes = {{.map = 0}}, .learning_rate = 1e-3F}}},
                 maps, never);
    });
    at::set_num_threads(s.threads);
    const double other = seconds([&] {
      optimizer.zero_grad();
      for (std::int64_t pass = 0; pass < passes; ++pass) {
        const auto first =
            index * static_cast<std::uint64_t>(s.batch) + static_cast<std::uint64_t>(pass * s.micro_batch);
        (eager.loss(qat::sample_batch(sampler, first, s.micro_batch, s.sequence)) / passes).backward();
      }
      torch::nn::utils::clip_grad_norm_(eager.parameters(), 1.0);
      optimizer.step();
    });
    if (step < 3) continue;
    ours.push_back(mine), theirs.push_back(other);
  }
  const double a = median(ours) * 1e3, b = median(theirs) * 1e3;
  fmt::print("qat_dist, W8 A8, gradients 8 bit, integer codes:   {:8.1f} ms a step\n", a);
  fmt::print("LibTorch eager, W8 A8 fake quantization:           {:8.1f} ms a step\n", b);
  fmt::print("ratio (eager / qat_dist):                          {:8.2f}\n", b / a);
  fmt::print(
      "{{\"bench\":\"train_step\",\"layers\":{},\"width\":{},\"sequence\":{},\"batch\":{},\"micro_batch\":{},\"bits\":{"
      "},"
      "\"threads\":{},\"steps\":{},\"qat_ms\":{:.2f},\"eager_ms\":{:.2f},\"ratio\":{:.3f}}}\n",
      s.layers, s.width, s.sequence, s.batch, s.micro_batch, s.bits, s.threads, s.steps, a, b, b / a);
}

}  // namespace

int main(int argc, char** argv) {
  Setting s;
  CLI::App app{"training step: integer codes against eager fake quantization"};
  app.add_option("--threads", s.threads)->capture_default_str();
  app.add_option("--steps", s.steps)->capture_default_str();
  app.add_option("--bits", s.bits)->capture_default_str();
  app.add_option("--layers", s.layers)->capture_default_str();
  app.add_option("--width", s.width)->capture_default_str();
  app.add_option("--sequence", s.sequence)->capture_default_str();
  app.add_option("--micro-batch", s.micro_batch)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  // As the product's main does; for both sides.
  mallopt(M_MMAP_THRESHOLD, 1 << 28);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  run(s);
  return 0;
}
