#include "src/cost/exchange_time.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "dist/grad/flat_layout.h"
#include "dist/grad/norm_block.h"
#include "dist/grad/value_gather.h"
#include "src/memory/memory_model.h"
#include "src/train/wire_of.h"

namespace qat {
namespace {

constexpr double kFloat = 4.0;

double share_of_others(int ranks) { return (ranks - 1.0) / ranks; }

double over(double bytes, double rate) { return bytes > 0.0 && rate > 0.0 ? bytes / rate : 0.0; }

// The embeddings' tables are buckets of their own, however large.
constexpr double kTables = 2.0;

double buckets(double elems) { return elems > 0.0 ? std::ceil(elems / static_cast<double>(dist::kBucketElems)) : 0.0; }

// Tensors begin at multiples of a block; what lies between them travels, too.
double padded(double elems) {
  constexpr double kBlock = kNormBlock;
  return std::ceil(elems / kBlock) * kBlock;
}

double element_bytes(kernels::WireInteger type) {
  return static_cast<double>(kernels::bytes_of(type, /*elems=*/2)) / 2.0;
}

// Every rank has something for every other one of a group within a node, or of one that has a rank on each node.
Sent all_to_all(double bytes, double calls, int ranks, double rate, double latency_s, bool in_node) {
  if (ranks == 1 || calls == 0.0) return {};
  const double sent = bytes * share_of_others(ranks);
  const double seconds = over(sent, rate) + calls * (ranks - 1) * latency_s;
  return {.bytes = sent, .seconds_in_node = in_node ? seconds : 0.0, .seconds_between_nodes = in_node ? 0.0 : seconds};
}

// In a ring through all ranks, node after node, and as many rings as a node has ranks: each has its own link to the
// next node, and all links are busy at once, so that the slower kind counts.
Sent all_gather(double bytes, double calls, const RankGroup& group, const Links& links) {
  if (group.ranks == 1 || bytes == 0.0) return {};
  const double sent = bytes * share_of_others(group.ranks);
  const double in_node = group.here() > 1 ? over(sent, links.node_bytes) : 0.0;
  const double between = group.nodes > 1 ? over(sent / group.here(), links.network_bytes) : 0.0;
  Sent all{.bytes = sent,
           .seconds_in_node = calls * (group.ranks - group.nodes) * links.node_latency_s,
           .seconds_between_nodes = calls * (group.nodes - 1) * links.network_latency_s};
  (between > in_node ? all.seconds_between_nodes : all.seconds_in_node) += std::max(between, in_node);
  return all;
}

// The largest of a few numbers each over all ranks: there and back.
Sent all_reduce(double bytes, double calls, const RankGroup& group, const Links& links) {
  if (group.ranks == 1 || bytes == 0.0) return {};
  const double sent = 2.0 * bytes * share_of_others(group.ranks);
  Sent all{.bytes = sent};
  if (group.here() > 1)
    all.seconds_in_node = over(sent, links.node_bytes) + calls * 2.0 * std::log2(group.here()) * links.node_latency_s;
  if (group.nodes > 1)
    all.seconds_between_nodes =
        over(sent / group.here(), links.network_bytes) + calls * 2.0 * std::log2(group.nodes) * links.network_latency_s;
  return all;
}

// On two levels: what a rank has for the owners in all nodes, within its node; then the node's sums.
Sent two_levels(double first_bytes, double second_bytes, double calls, const RankGroup& group, const Links& links) {
  Sent all = all_to_all(first_bytes, calls, group.here(), links.node_bytes, links.node_latency_s, /*in_node=*/true);
  all += all_to_all(second_bytes / group.here(), calls, group.nodes, links.network_bytes, links.network_latency_s,
                    /*in_node=*/false);
  return all;
}

}  // namespace

Sent& Sent::operator+=(const Sent& other) {
  bytes += other.bytes;
  seconds_in_node += other.seconds_in_node;
  seconds_between_nodes += other.seconds_between_nodes;
  return *this;
}

TrainedElems trained_elems(const RunConfig& config, const StagePart& part) {
  const Gpt2Config& model = config.model;
  const auto number = [](std::int64_t value) { return static_cast<double>(value); };
  const double blocks = number(std::ssize(part.blocks(model.n_layer))), d = number(model.n_embd);
  const double table = number(model.vocab_size) * d;
  const bool heads = part.heads && !model.answers_questions();
  const std::pair<double, double> shapes[] = {{d, 3 * d}, {d, d}, {d, 4 * d}, {4 * d, d}};  // in, out
  // Four tensors of d of a block's norms, two of the last norm's.
  TrainedElems elems{.vectors = padded(d) * (4.0 * blocks + (part.heads ? 2.0 : 0.0))};
  double exact = d * (4.0 * blocks + (part.heads ? 2.0 : 0.0));  // without gaps
  if (!model.freeze_base) {
    for (const auto& [in, out] : shapes) {
      elems.linear += padded(in * out) * blocks;
      elems.vectors += padded(out) * blocks;
      elems.rows += out * blocks;
      exact += (in * out + out) * blocks;
    }
    const bool own_table = part.embeds && (!model.tie_lm_head || heads),
               own_head = heads && !(model.tie_lm_head && part.embeds);
    const double tables = (own_table ? 1.0 : 0.0) + (own_head ? 1.0 : 0.0),
                 places = part.embeds ? number(model.n_positions) * d : 0.0;
    elems.tables = tables * padded(table) + padded(places);
    exact += tables * table + places;
  }
  // What else there is are adapters, two tensors for each linear layer.
  const double others = number(count_parameters(model, config.lora, config.quant, part).in_a_step()) - exact;
  const double rank = std::max(0.0, others) / (16.0 * d * blocks);
  for (const auto& [in, out] : shapes) elems.adapters += (padded(rank * in) + padded(rank * out)) * blocks;
  return elems;
}

Sent gradients_sent(const CommConfig& comm, const RankGroup& group, const Links& links, double coded, double calls,
                    double exact) {
  if (group.ranks == 1) return {};
  Sent all = two_levels(kFloat * exact, kFloat * exact, buckets(exact), group, links);
  if (coded == 0.0) return all;
  const dist::GradWire wire = wire_of(comm);
  const double scales = kFloat * coded / static_cast<double>(wire.block);
  if (!kernels::has_codes(wire.format)) {
    const double bytes = (wire.is_exact() ? kFloat : 2.0) * coded;
    all += two_levels(bytes, bytes, calls, group, links);
    return all;
  }
  const double codes = element_bytes(kernels::integer_of(wire.format)) * coded;
  if (wire.sum == dist::WireSum::kTwoPhase) {
    all += two_levels(codes, codes, calls, group, links);
    all += two_levels(scales, scales, calls, group, links);
    return all;
  }
  all += all_reduce(scales, calls, group, links);
  // A node's sum of codes has room for them all.
  const double sums = element_bytes(kernels::integer_for_sum(wire.format, group.here())) * coded;
  all += two_levels(codes, sums, calls, group, links);
  return all;
}

CodeBitsOfMaps code_bits_of(const RunConfig& config, bool cuda, const std::vector<const PrecisionMap*>& maps) {
  constexpr std::size_t kMostMaps = 3;  // of an update, as in src/train/step_passes.cc
  if (config.comm.weights != WeightsName::kCodes || maps.size() > kMostMaps || !scales_by_row(config.quant) ||
      config.model.freeze_base)
    return {};
  CodeBitsOfMaps bits;
  for (const PrecisionMap* map : maps) {
    const PassShape pass{.config = config, .precision = *map, .cuda = cuda};
    int most = 0;
    for (std::int64_t i = 0; i < kLinearsPerBlock * config.model.n_layer; ++i) {
      if (path_of(pass, i) != GemmPath::kCodes) return {};
      most = std::max(most, map->at(i).weight.bits());
    }
    bits.push_back(most);
  }
  return bits;
}

Sent weights_sent(const RankGroup& group, const Links& links, const TrainedElems& elems, const CodeBitsOfMaps& bits) {
  if (group.ranks == 1) return {};
  const double calls = (elems.tables > 0.0 ? kTables : 0.0) + buckets(elems.adapters) + buckets(elems.vectors);
  Sent all = all_gather(kFloat * (elems.total() - elems.linear), calls, group, links);
  if (bits.empty()) all += all_gather(kFloat * elems.linear, buckets(elems.linear), group, links);
  const double batches = std::ceil(elems.linear / static_cast<double>(dist::ValueGather::batch_elems(group.ranks)));
  for (const int of_map : bits) {
    all += all_reduce(kFloat * elems.rows, batches, group, links);
    all += all_gather((of_map <= 4 ? 0.5 : 1.0) * elems.linear, batches, group, links);
  }
  return all;
}

GradientTime gradient_time(const CommConfig& comm, const RankGroup& group, const Links& links,
                           const TrainedElems& elems, const BackwardTimes& backward, bool overlapped) {
  GradientTime time;
  double now = backward.head_s, alone = now;  // where backward is, and would be if nothing ran beside it
  double sent_until = 0.0;
  const auto send = [&](const Sent& sent) {
    time.bytes += sent.bytes;
    time.alone_s += sent.seconds();
    sent_until = std::max(sent_until, now) + sent.seconds();
  };
  const double matrices = (elems.linear + elems.adapters) / static_cast<double>(backward.blocks_s.size());
  for (const double seconds : backward.blocks_s) {
    now += seconds, alone += seconds;
    const Sent sent = gradients_sent(comm, group, links, matrices, buckets(matrices), /*exact=*/0.0);
    send(sent);
    now += sent.seconds_in_node;
  }
  now += backward.embedding_s, alone += backward.embedding_s;
  send(gradients_sent(comm, group, links, elems.tables, kTables, elems.vectors));
  if (overlapped) time.hidden_s = std::max(0.0, time.alone_s - (std::max(now, sent_until) - alone));
  return time;
}

}  // namespace qat
