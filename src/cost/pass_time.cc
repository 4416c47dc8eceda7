#include "src/cost/pass_time.h"

#include <algorithm>

// Shape letters: M tokens of the pass, T of a sequence, d width, V vocabulary, r rank of the adapters; f bytes of a
// float. Bytes are counted for a token, in units of d where they are of the residual stream.

namespace qat {
namespace {

// What a block or the head does, before it is divided by rates.
struct Work {
  double seconds = 0.0;  // products and attention
  double bytes = 0.0;

  Work& operator+=(const Work& other) {
    seconds += other.seconds;
    bytes += other.bytes;
    return *this;
  }
};

struct BothWays {
  Work forward, backward;
};

// A leaf of a pass's gradients, written and added to the sum of those before it.
double gradient_bytes(const PassShape& pass, double elems) {
  return elems * (pass.config.train.accumulate == Accumulate::kTree ? 16.0 : 8.0);
}

double as_double(std::int64_t value) { return static_cast<double>(value); }

// Products of one linear layer, those of its adapter among them, and what the adapter reads.
BothWays linear_work(const PassShape& pass, const DeviceRates& rates, std::int64_t index) {
  const LinearShape shape = linear_of(pass, index);
  const AdapterShape adapter = adapter_of(pass, index);
  const double floats = float_products(rates, pass.config.compute, pass.cuda), f = as_double(pass.float_bytes());
  const double tokens = as_double(pass.tokens()), in = as_double(shape.in), out = as_double(shape.out);
  const double product = 2.0 * tokens * in * out;
  const GemmPath path = path_of(pass, index);
  const double rate = path == GemmPath::kCodes       ? rates.code_products
                      : path == GemmPath::kWideCodes ? rates.wide_products
                                                     : floats;
  const double back = path == GemmPath::kCodes && backward_on_codes(pass, index) ? rates.code_products : floats;
  BothWays work{.forward = {.seconds = product / rate}};
  const bool frozen = pass.config.model.freeze_base;
  work.backward.seconds = (frozen ? 1.0 : 2.0) * product / back;
  if (!frozen) work.backward.bytes = gradient_bytes(pass, in * out);
  const double r = path == GemmPath::kPlain ? 0.0 : as_double(adapter.rank);
  if (r > 0.0) {
    const double narrow = 2.0 * tokens * r * (in + out);
    const double input = tokens * in * (path == GemmPath::kCodes && !reads_raw(adapter) ? 1.0 : f);
    work.forward += {.seconds = narrow / rate, .bytes = input};
    work.backward += {.seconds = 2.0 * narrow / back, .bytes = input + tokens * out * f};
    work.backward.bytes += gradient_bytes(pass, r * (in + out));
  }
  return work;
}

// Norms, GELU, residual sums, encoding: kernels that are as fast as memory.
BothWays rowwise_work(const PassShape& pass, std::int64_t layer) {
  const Gpt2Config& model = pass.config.model;
  const std::int64_t first = kLinearsPerBlock * layer;
  const double f = as_double(pass.float_bytes());
  const bool codes = path_of(pass, first) == GemmPath::kCodes;
  const bool plain = path_of(pass, first) == GemmPath::kPlain;
  double forward = 0.0, backward = 0.0;  // bytes a token, over d
  if (is_fused(pass, layer) && codes) {
    // Two norms, attention's output and GELU, each read once and written as codes and transposed codes; the residual
    // stream read and written by the norms.
    forward = 11.0 * f + 14.0;
    // Norms; GELU; the output gradients (9 d values) read and written as row codes, and where weights are trained read
    // again and written as column codes.
    backward = 16.0 * f + 9.0 * f + 9.0 + (model.freeze_base ? 0.0 : 9.0 * f + 9.0);
  } else if (plain) {
    forward = 18.0 * f, backward = 36.0 * f;
  } else {
    // Operator by operator: inputs of linear layers (7 d values) and output gradients have passes of their own.
    forward = 25.0 * f + (codes ? 14.0 : 7.0 * f);
    backward = 26.0 * f + (backward_on_codes(pass, first) ? 18.0 * f + 18.0 : 9.0 * f);
  }
  if (!pass.precision.kv(layer).is_full()) forward += 4.0 * f;
  if (pass.training && model.resid_dropout > 0.0) forward += 8.0 * f, backward += 8.0 * f;
  if (pass.config.compute.recompute == Recompute::kSelective && is_fused(pass, layer)) backward += 4.0 * f + 4.0;
  const double elems = as_double(pass.tokens() * model.n_embd);
  BothWays work{.forward = {.bytes = forward * elems}, .backward = {.bytes = backward * elems}};
  if (pass.training && model.attn_dropout > 0.0) {  // attention in pieces, whose probabilities go through memory
    const double probabilities = as_double(pass.tokens() * model.n_head * pass.config.data.sequence_length) * f;
    work.forward.bytes += 3.0 * probabilities;
    work.backward.bytes += 5.0 * probabilities;
  }
  return work;
}

BothWays attention_work(const PassShape& pass, const DeviceRates& rates) {
  // Two products forward and five backward, half of each left out by the mask.
  const double product =
      as_double(pass.tokens()) * as_double(pass.config.data.sequence_length) * as_double(pass.config.model.n_embd);
  const bool repeatable = pass.config.compute.attention == AttentionChoice::kRepeatable;
  return {.forward = {.seconds = 2.0 * product / rates.attention_forward},
          .backward = {.seconds = 5.0 * product /
                                  (repeatable ? rates.repeatable_attention_backward : rates.attention_backward)}};
}

// fixed: seconds beside what the work takes.
PassTime time_of(const PassShape& pass, const DeviceRates& rates, const BothWays& work, const PassTime& fixed) {
  PassTime time{.forward_s = work.forward.seconds + work.forward.bytes / rates.bytes + fixed.forward_s};
  if (!pass.training) return time;
  time.backward_s = work.backward.seconds + work.backward.bytes / rates.bytes + fixed.backward_s;
  return time;
}

PassTime edge_time(const PassShape& pass, const DeviceRates& rates, const BothWays& work) {
  return time_of(
      pass, rates, work,
      {.forward_s = rates.edge_parts * rates.part_forward_s, .backward_s = rates.edge_parts * rates.part_backward_s});
}

PassTime block_time(const PassShape& pass, const DeviceRates& rates, std::int64_t layer) {
  BothWays work = rowwise_work(pass, layer);
  const auto add = [&](const BothWays& part) {
    work.forward += part.forward;
    work.backward += part.backward;
  };
  for (std::int64_t i = 0; i < kLinearsPerBlock; ++i) add(linear_work(pass, rates, kLinearsPerBlock * layer + i));
  add(attention_work(pass, rates));
  const double tokens = as_double(pass.tokens());
  PassTime time = time_of(pass, rates, work,
                          {.forward_s = rates.part_forward_s + tokens * rates.row_forward_s,
                           .backward_s = rates.part_backward_s + tokens * rates.row_backward_s});
  if (pass.training && pass.config.compute.recompute == Recompute::kBlock) time.backward_s += time.forward_s;
  return time;
}

PassTime embedding_time(const PassShape& pass, const DeviceRates& rates) {
  const Gpt2Config& model = pass.config.model;
  const double elems = as_double(pass.tokens() * model.n_embd), f = as_double(pass.float_bytes());
  BothWays work{.forward = {.bytes = elems * (8.0 + f)}};
  if (!model.freeze_base)
    work.backward.bytes =
        elems * (8.0 + f) + gradient_bytes(pass, as_double((model.vocab_size + model.n_positions) * model.n_embd));
  if (pass.training && model.embd_dropout > 0.0)
    work.forward.bytes += 4.0 * f * elems, work.backward.bytes += 4.0 * f * elems;
  return edge_time(pass, rates, work);
}

PassTime head_time(const PassShape& whole, const DeviceRates& rates) {
  PassShape pass = whole;
  pass.part = {};
  const Gpt2Config& model = pass.config.model;
  const double tokens = as_double(pass.tokens()), d = as_double(model.n_embd), f = as_double(pass.float_bytes());
  BothWays work{.forward = {.bytes = 4.0 * f * tokens * d}, .backward = {.bytes = 4.0 * f * tokens * d}};  // the norm
  const auto begins_backward = [&](PassTime time) {
    return pass.training ? PassTime{.backward_s = time.total()} : time;
  };
  const HeadKind kind = head_of(pass);
  if (kind == HeadKind::kAnswers) {
    work.forward.bytes += 8.0 * tokens * d * (pass.training ? 2.0 : 1.0);
    return begins_backward(edge_time(pass, rates, work));
  }
  const double rows = as_double(head_rows(pass)), product = 2.0 * tokens * rows * d;
  const bool bf16 = pass.cuda && pass.float_bytes() == 2;
  const double floats = bf16 ? rates.head_products : float_products(rates, pass.config.compute, pass.cuda);
  // Of a training pass the products of both gradients, and its weights'.
  const double products = !pass.training ? 1.0 : model.freeze_base ? 2.0 : 3.0;
  work.forward.seconds = products * product / (kind == HeadKind::kCodes ? rates.code_products : floats);
  const double logits = tokens * rows;
  if (kind == HeadKind::kByOperators)
    work.forward.bytes += logits * 4.0 * (pass.training ? 6.0 : 3.0);
  else
    work.forward.bytes += logits * f * (pass.training ? 2.0 : 1.0);
  if (kind == HeadKind::kCodes && pass.training) work.forward.bytes += logits * (f + 2.0);  // their gradient as codes
  if (pass.training && !model.freeze_base) work.forward.bytes += gradient_bytes(pass, rows * d);
  const double teachers = as_double(pass.teachers);
  work.forward += {.seconds = teachers * product / floats, .bytes = teachers * 2.0 * logits * f};
  return begins_backward(edge_time(pass, rates, work));
}

}  // namespace

PassTime& PassTime::operator+=(const PassTime& other) {
  forward_s += other.forward_s;
  backward_s += other.backward_s;
  return *this;
}

double ModelTimes::total() const {
  double sum = embedding.total() + head.total();
  for (const PassTime& block : blocks) sum += block.total();
  return sum;
}

ModelTimes model_times(const PassShape& pass, const DeviceRates& rates) {
  ModelTimes times{.embedding = embedding_time(pass, rates), .head = head_time(pass, rates)};
  for (std::int64_t layer = 0; layer < pass.config.model.n_layer; ++layer)
    times.blocks.push_back(block_time(pass, rates, layer));
  return times;
}

double update_seconds(double trained, const DeviceRates& rates) {
  // Parameter, gradient and two moments read, three written; and read again, to be written as codes.
  constexpr double kBytes = 28.0 + 6.0;
  return trained * kBytes / rates.bytes;
}

dist::LayerCosts layer_costs(const ModelTimes& times) {
  dist::LayerCosts costs{.embedding = times.embedding.total(), .head = times.head.total()};
  for (const PassTime& block : times.blocks) costs.blocks.push_back(block.total());
  return costs;
}

}  // namespace qat
