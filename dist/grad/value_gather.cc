#include "dist/grad/value_gather.h"

#include <algorithm>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using kernels::CodeBytes;
using kernels::RowPiece;

}  // namespace

void ValueGather::exact(int bucket, std::span<float> values) {
  if (comm_.size() == 1) return;
  const ShardRange all = layout_.buckets().at(static_cast<std::size_t>(bucket)).range,
                   own = layout_.shard(bucket, comm_.rank(), comm_.size());
  comm_.all_gather({values.data() + own.begin, own.size(), DType::kFloat32, exec_.device},
                   {values.data() + all.begin, all.size(), DType::kFloat32, exec_.device}, exec_.stream);
  sent_bytes_ += own.size() * static_cast<std::int64_t>(sizeof(float)) * (comm_.size() - 1);
}

std::span<const int> ValueGather::batch_of(std::span<const int> buckets) const {
  std::size_t count = 0;
  std::int64_t elems = 0;
  for (; count < buckets.size(); ++count) {
    elems += layout_.buckets().at(static_cast<std::size_t>(buckets[count])).range.size();
    if (count > 0 && elems > batch_elems(comm_.size())) break;
  }
  return buckets.first(count);
}

ValueGather::Room ValueGather::room_for(std::span<const int> buckets, std::span<const RowCodes> rows) const {
  Room room;
  for (const int b : buckets) {
    const FlatLayout::Bucket& bucket = layout_.buckets().at(static_cast<std::size_t>(b));
    room.codes += bucket.range.size() / comm_.size();
    for (int t = bucket.first_tensor; t < bucket.first_tensor + bucket.tensors; ++t) {
      const std::int64_t elems = layout_.tensors()[static_cast<std::size_t>(t)].elems;
      const std::int64_t cols = rows[static_cast<std::size_t>(t)].cols;
      QAT_CHECK(elems % cols == 0, "matrices travel as codes");
      room.rows += elems / cols;
    }
  }
  return room;
}

void ValueGather::make_room(const Room& room, CodeBytes bytes, WireStaging& staging) const {
  const std::int64_t own = kernels::bytes_of_codes(room.codes, bytes);
  staging.reserve(WireStaging::kSent, own);
  staging.reserve(WireStaging::kReceived, own * comm_.size());
  staging.reserve(WireStaging::kOwnScales, room.rows * static_cast<std::int64_t>(sizeof(float)));
}

void ValueGather::reserve(std::span<const int> buckets, std::span<const RowCodes> rows, WireStaging& staging) const {
  QAT_CHECK(rows.size() == layout_.tensors().size(), "how each tensor travels");
  if (comm_.size() == 1) return;
  for (; !buckets.empty(); buckets = buckets.subspan(batch_of(buckets).size()))
    make_room(room_for(batch_of(buckets), rows), CodeBytes::kOne, staging);
}

void ValueGather::coded(std::span<const int> buckets, std::span<const RowCodes> rows, std::span<float> values,
                        WireStaging& staging, const Sent& sent) {
  QAT_CHECK(rows.size() == layout_.tensors().size(), "how each tensor travels");
  if (comm_.size() == 1) return;
  for (; !buckets.empty(); buckets = buckets.subspan(batch_of(buckets).size())) {
    const std::span<const int> batch = batch_of(buckets);
    coded_batch(batch, rows, values, staging);
    if (sent) sent(batch);
  }
}

void ValueGather::coded_batch(std::span<const int> buckets, std::span<const RowCodes> rows, std::span<float> values,
                              WireStaging& staging) {
  const auto [own_codes, row_count] = room_for(buckets, rows);
  std::vector<std::int64_t> row_at(rows.size());  // the matrices' rows among the batch's
  std::int64_t next_row = 0;
  int most_bits = 0;
  for (const int b : buckets) {
    const FlatLayout::Bucket& bucket = layout_.buckets()[static_cast<std::size_t>(b)];
    for (int t = bucket.first_tensor; t < bucket.first_tensor + bucket.tensors; ++t) {
      const auto i = static_cast<std::size_t>(t);
      QAT_CHECK(rows[i].bits > 0, "these buckets travel as codes");
      row_at[i] = next_row;
      next_row += layout_.tensors()[i].elems / rows[i].cols;
      most_bits = std::max(most_bits, rows[i].bits);
    }
  }
  const CodeBytes code_bytes = most_bits <= 4 ? CodeBytes::kHalf : CodeBytes::kOne;
  QAT_CHECK(code_bytes == CodeBytes::kOne || own_codes % 2 == 0, "a shard of codes is whole bytes");
  // Whose shards of the buckets lie one after the other among the codes, rank after rank.
  const auto add_pieces = [&](int rank, std::int64_t code, std::vector<RowPiece>& pieces) {
    for (const int b : buckets) {
      const FlatLayout::Bucket& bucket = layout_.buckets()[static_cast<std::size_t>(b)];
      const ShardRange shard = layout_.shard(b, rank, comm_.size());
      for (int t = bucket.first_tensor; t < bucket.first_tensor + bucket.tensors; ++t) {
        const auto i = static_cast<std::size_t>(t);
        const FlatLayout::Tensor& tensor = layout_.tensors()[i];
        const std::int64_t begin = std::max(shard.begin, tensor.offset),
                           end = std::min(shard.end, tensor.offset + tensor.elems);
        if (begin < end)
          pieces.push_back({.values = values.data() + begin,
                            .first = begin - tensor.offset,
                            .elems = end - begin,
                            .cols = rows[i].cols,
                            .row = row_at[i],
                            .code = code + begin - shard.begin,
                            .bits = rows[i].bits});
      }
      code += shard.size();
    }
  };
  const std::int64_t own_bytes = kernels::bytes_of_codes(own_codes, code_bytes);
  make_room({.codes = own_codes, .rows = row_count}, code_bytes, staging);
  const std::span<float> amax = staging.floats(WireStaging::kOwnScales, row_count);
  const std::span<std::uint8_t> sent = staging.raw(WireStaging::kSent, own_bytes),
                                received = staging.raw(WireStaging::kReceived, own_bytes * comm_.size());
  std::vector<RowPiece> own, others;
  add_pieces(comm_.rank(), 0, own);
  for (int rank = 0; rank < comm_.size(); ++rank)
    if (rank != comm_.rank()) add_pieces(rank, rank * own_codes, others);
  kernels::row_piece_amax(exec_, own, amax);
  // Bits of magnitudes order like the magnitudes, with NaN on top.
  comm_.all_reduce({amax.data(), row_count, DType::kInt32, exec_.device}, ReduceOp::kMax, exec_.stream);
  kernels::encode_row_pieces(exec_, own, amax, code_bytes, sent);
  comm_.all_gather({sent.data(), own_bytes, DType::kUInt8, exec_.device},
                   {received.data(), own_bytes * comm_.size(), DType::kUInt8, exec_.device}, exec_.stream);
  kernels::decode_row_pieces(exec_, others, amax, code_bytes, received);
  // Maxima are agreed on by all ranks: once there and once back.
  sent_bytes_ +=
      (own_bytes + 2 * row_count * static_cast<std::int64_t>(sizeof(float)) / comm_.size()) * (comm_.size() - 1);
}

}  // namespace qat::dist
