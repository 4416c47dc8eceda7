#include "dist/grad/grad_reducer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "kernels/grad/tree_sum.h"

namespace qat::dist {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

std::int64_t padded(std::int64_t bytes) { return (bytes + kFloatBytes - 1) / kFloatBytes * kFloatBytes; }

}  // namespace

GradReducer::GradReducer(Communicator& group, std::int64_t elems, GradReducerOptions options)
    : group_(&group), elems_(elems), options_(std::move(options)) {
  QAT_CHECK(elems >= 0 && elems % group.size() == 0, "ranks have equal shards");
  if (options_.nodes != nullptr)
    QAT_CHECK(options_.nodes->nodes() * options_.nodes->places() == group.size(), "nodes of the same group");
  if (group.size() > 1 && !is_direct()) reserve();
}

kernels::WireShape GradReducer::shape() const {
  return {.format = options_.wire.format,
          .parts = group_->size(),
          .elems = shard_elems(),
          .block = options_.wire.block,
          .places = options_.nodes == nullptr ? 0 : places()};
}

void GradReducer::reserve() {
  QAT_CHECK(options_.staging != nullptr, "gradients that are encoded need staging");
  const kernels::WireShape all = shape();
  QAT_CHECK(all.format != WireFormat::kInt4 || all.elems % 2 == 0, "a shard of 4-bit codes is whole bytes");
  QAT_CHECK(options_.nodes == nullptr || !kernels::has_codes(all.format) || all.elems % all.block == 0,
            "on two levels a shard is whole blocks: " + std::to_string(all.elems) + " elements, blocks of " +
                std::to_string(all.block));
  WireStaging& staging = *options_.staging;
  const std::int64_t bytes = all.parts * all.part_bytes();
  staging.reserve(WireStaging::kSent, bytes);
  staging.reserve(WireStaging::kReceived, bytes);
  if (kernels::has_codes(all.format)) {
    staging.reserve(WireStaging::kOwnScales, all.parts * all.blocks() * kFloatBytes);
    if (!shares_scales()) staging.reserve(WireStaging::kReceivedScales, all.parts * all.blocks() * kFloatBytes);
  }
  if (options_.nodes == nullptr) return;
  const std::int64_t sums =
      nodes() * (shares_scales() ? padded(kernels::bytes_of(wide(), all.elems)) : all.elems * kFloatBytes);
  staging.reserve(WireStaging::kSums, sums);
  staging.reserve(WireStaging::kReceivedSums, sums);
}

std::int64_t GradReducer::sent_bytes() const {
  if (group_->size() == 1) return 0;
  if (is_direct()) return fp32_bytes();
  const kernels::WireShape all = shape();
  const bool codes = kernels::has_codes(all.format);
  const std::int64_t scales = codes ? all.blocks() * kFloatBytes : 0;
  // To the others of the node, a message for each node. Scales are agreed on by all ranks: once there and once back.
  const std::int64_t others = places() - 1;
  std::int64_t bytes = others * nodes() * all.part_bytes();
  bytes += shares_scales() ? 2 * scales * (group_->size() - 1) : others * nodes() * scales;
  if (nodes() == 1) return bytes;
  const std::int64_t second = shares_scales() ? kernels::bytes_of(wide(), all.elems) : all.part_bytes() + scales;
  return bytes + (nodes() - 1) * second;
}

std::span<float> GradReducer::own_part(std::span<float> full) const {
  QAT_CHECK(static_cast<std::int64_t>(full.size()) == elems_, "the buffer must have elems() elements");
  return full.subspan(static_cast<std::size_t>(shard().begin), static_cast<std::size_t>(shard_elems()));
}

BufferView GradReducer::buffer(std::span<float> values) const {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, options_.exec.device};
}

BufferView GradReducer::buffer(std::span<std::uint8_t> values) const {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::kUInt8, options_.exec.device};
}

void GradReducer::copy(std::span<float> to, std::span<const float> from) const {
  QAT_CHECK(to.size() == from.size(), "a copy is as long as what it is made of");
  if (options_.exec.device == Device::kCuda)
    cuda_copy(to.data(), from.data(), from.size_bytes(), options_.exec.stream);
  else
    std::copy(from.begin(), from.end(), to.begin());
}

std::span<std::uint8_t> GradReducer::exchange(Communicator& group, WireStaging::Slot from, WireStaging::Slot to,
                                              std::int64_t bytes) const {
  const std::span<std::uint8_t> received = options_.staging->raw(to, bytes * group.size());
  group.all_to_all(buffer(options_.staging->raw(from, bytes * group.size())), buffer(received), options_.exec.stream);
  return received;
}

void GradReducer::reduce_scatter_exact(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_->size() > 1) group_->reduce_scatter(buffer(full), buffer(own), ReduceOp::kSum, options_.exec.stream);
}

void GradReducer::reduce_scatter(std::span<float> full, const Feedback& feedback, kernels::WireRounding rounding) {
  const std::span<float> own = own_part(full);
  if (group_->size() > 1 && is_direct()) return reduce_scatter_exact(full);
  if (group_->size() == 1) {  // what more ranks left earlier, perhaps; nothing is left now
    if (feedback.residual.empty()) return;
    kernels::add_flat(options_.exec, full, feedback.residual);
    if (options_.exec.device == Device::kCuda)
      cuda_zero(feedback.own_left.data(), feedback.own_left.size_bytes(), options_.exec.stream);
    else
      std::fill(feedback.own_left.begin(), feedback.own_left.end(), 0.0F);
    return;
  }
  const kernels::WireShape all = shape();
  const WireStaging& staging = *options_.staging;
  std::span<float> amax;
  if (kernels::has_codes(all.format)) {
    amax = staging.floats(WireStaging::kOwnScales, all.parts * all.blocks());
    kernels::wire_amax(options_.exec, full, feedback.residual, all, amax);
    // Bits of magnitudes order like the magnitudes, with NaN on top.
    if (shares_scales())
      group_->all_reduce({amax.data(), static_cast<std::int64_t>(amax.size()), DType::kInt32, options_.exec.device},
                         ReduceOp::kMax, options_.exec.stream);
  }
  rounding.stochastic = options_.wire.stochastic;
  rounding.first += static_cast<std::uint64_t>(group_->rank()) << 40U;  // room for 2^40 elements of each rank
  const std::span<std::uint8_t> sent = staging.raw(WireStaging::kSent, all.parts * all.part_bytes());
  const bool keeps = !feedback.residual.empty();
  kernels::wire_encode(options_.exec, full, feedback.residual, amax, all, rounding, sent,
                       keeps ? full : std::span<float>());
  if (keeps) copy(feedback.own_left, own);
  shares_scales() ? add_codes(own) : add_values(own);
}

void GradReducer::add_codes(std::span<float> own) {
  const kernels::WireShape all = shape();
  const kernels::WireInteger type = kernels::integer_of(all.format);
  const std::span<const float> amax =
      options_.staging->floats(WireStaging::kOwnScales, all.parts * all.blocks())
          .subspan(static_cast<std::size_t>(all.message_of(group_->rank()) * all.blocks()),
                   static_cast<std::size_t>(all.blocks()));
  Communicator& first = options_.nodes == nullptr ? *group_ : *options_.nodes->inside;
  const std::span<std::uint8_t> codes =
      exchange(first, WireStaging::kSent, WireStaging::kReceived, nodes() * all.part_bytes());
  if (options_.nodes == nullptr) return kernels::scale_codes(options_.exec, codes, type, all.parts, amax, all, own);
  // A shard is whole blocks, hence whole bytes: the nodes' messages are one row of codes.
  const std::int64_t bytes = kernels::bytes_of(wide(), all.elems);
  kernels::sum_codes(options_.exec, codes, type, places(), nodes() * all.elems,
                     options_.staging->raw(WireStaging::kSums, nodes() * bytes), wide());
  const std::span<std::uint8_t> sums =
      exchange(*options_.nodes->across, WireStaging::kSums, WireStaging::kReceivedSums, bytes);
  kernels::scale_codes(options_.exec, sums, wide(), nodes(), amax, all, own);
}

void GradReducer::add_values(std::span<float> own) {
  const kernels::WireShape all = shape();
  const WireStaging& staging = *options_.staging;
  const bool codes = kernels::has_codes(all.format);
  // Messages of `format` from all of `group`, of `messages` shards each, and their sum.
  const auto add = [&](Communicator& group, std::int64_t messages, std::span<float> sum) {
    const kernels::WireShape received{
        .format = all.format, .parts = group.size(), .elems = messages * all.elems, .block = all.block};
    const std::span<std::uint8_t> values =
        exchange(group, WireStaging::kSent, WireStaging::kReceived, received.part_bytes());
    std::span<float> scales;
    if (codes) {
      const std::int64_t bytes = received.blocks() * kFloatBytes;
      exchange(group, WireStaging::kOwnScales, WireStaging::kReceivedScales, bytes);
      scales = staging.floats(WireStaging::kReceivedScales, received.parts * received.blocks());
    }
    kernels::wire_sum(options_.exec, values, scales, received, sum);
  };
  if (options_.nodes == nullptr) return add(*group_, 1, own);
  const std::span<float> sums = staging.floats(WireStaging::kSums, nodes() * all.elems);
  add(*options_.nodes->inside, nodes(), sums);
  const kernels::WireShape second{.format = all.format, .parts = nodes(), .elems = all.elems, .block = all.block};
  std::span<float> amax;
  if (codes) {
    amax = staging.floats(WireStaging::kOwnScales, second.parts * second.blocks());
    kernels::wire_amax(options_.exec, sums, {}, second, amax);
  }
  kernels::wire_encode(options_.exec, sums, {}, amax, second, /*rounding=*/{},
                       staging.raw(WireStaging::kSent, second.parts * second.part_bytes()), {});
  add(*options_.nodes->across, 1, own);
}

}  // namespace qat::dist
