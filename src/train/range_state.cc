#include "src/train/range_state.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/quant/torch_view.h"
#include "src/train/on_root.h"

namespace qat {
namespace {

// Where the parts of one range lie.
std::string training_group(const Quantizer& quantizer, const RangeWidths& widths) {
  std::string name = fmt::format("w{}a{}", widths.weight, widths.activation);
  if (quantizer.role() == "weight") name = fmt::format("w{}", widths.weight);
  if (widths.weight == RangeWidths::kAnyWeights) name = std::to_string(widths.activation);
  return fmt::format("/quant/{}/{}/{}", quantizer.layer(), quantizer.role(), name);
}
// A map's text may be long, and have characters that names of groups must not: its hash (FNV-1a) stands for it.
std::string evaluation_group(const Quantizer& quantizer, const EvaluatedAt& at) {
  std::string name = std::to_string(at.bits);
  if (!at.map.empty()) {
    std::uint64_t hash = 0xcbf29ce484222325ULL;
    for (const char c : parse_bitmap(at.map).text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    name = fmt::format("map_{:016x}", hash);
  }
  return fmt::format("/evaluation/{}/{}/{}", name, quantizer.layer(), quantizer.role());
}

// The widths in the name of a group that training_group made.
std::optional<RangeWidths> widths_of(const std::string& group) {
  const std::string name = group.substr(group.rfind('/') + 1);
  const auto size = static_cast<int>(name.size());
  int weight = 0, activation = 0, end = 0;
  if (std::sscanf(name.c_str(), "w%da%d%n", &weight, &activation, &end) == 2 && end == size)
    return RangeWidths{.weight = weight, .activation = activation};
  if (std::sscanf(name.c_str(), "w%d%n", &weight, &end) == 1 && end == size)
    return RangeWidths{.weight = weight, .activation = BitWidth::kFull};
  if (std::sscanf(name.c_str(), "%d%n", &activation, &end) == 1 && end == size)
    return RangeWidths{.weight = RangeWidths::kAnyWeights, .activation = activation};
  return std::nullopt;
}

// What the other ranks must know to receive a range.
struct Header {
  static constexpr std::int64_t kTrainings = -1;

  std::int64_t layer = 0;               // index in PrecisionMap
  std::int64_t of_weight = 0;           // else of the inputs
  std::int64_t evaluated = kTrainings;  // which of those to be evaluated it belongs to
  RangeWidths widths;                   // training's
  std::int64_t groups = 0;
  std::int64_t batches = 0;
  std::int64_t step = 0;
  std::int64_t has_mean = 0;
};

using Evaluated = std::vector<EvaluatedAt>;

template <typename Linear>
auto& quantizer_of(Linear& linear, bool of_weight) {
  return of_weight ? linear.weight_quantizer() : linear.activation_quantizer();
}

std::string group_of(const Quantizer& quantizer, const Header& header, const Evaluated& evaluated) {
  if (header.evaluated == Header::kTrainings) return training_group(quantizer, header.widths);
  return evaluation_group(quantizer, evaluated[static_cast<std::size_t>(header.evaluated)]);
}

// Adds the range of `header`'s group, if it is there.
void find_range(const CheckpointReader& reader, const Quantizer& quantizer, Header header, const Evaluated& evaluated,
                std::vector<Header>& headers) {
  const std::string group = group_of(quantizer, header, evaluated), lo = group + "/lo";
  if (!reader.has_tensor(lo)) return;
  header.groups = element_count(reader.tensor_info(lo).shape);
  header.batches = reader.attribute<std::int64_t>(lo, "batches");
  // Older checkpoints do not say: ranges were taken once, at the first use of their width.
  header.step = reader.has_attribute(lo, "step") ? reader.attribute<std::int64_t>(lo, "step") : 0;
  header.has_mean = reader.has_tensor(group + "/mean") ? 1 : 0;
  headers.push_back(header);
}

void find_training_ranges(const CheckpointReader& reader, const Quantizer& quantizer, Header header,
                          std::vector<Header>& headers) {
  for (const std::string& name :
       reader.tensor_names(fmt::format("/quant/{}/{}", quantizer.layer(), quantizer.role()))) {
    if (!name.ends_with("/lo")) continue;
    const auto widths = widths_of(name.substr(0, name.size() - 3));
    if (!widths) continue;
    header.widths = *widths;
    const int own = header.of_weight != 0 ? widths->weight : widths->activation;
    if (BitWidth::is_valid(own) && quantizer.needs_ranges(BitWidth(own)))
      find_range(reader, quantizer, header, {}, headers);
  }
}

// Training's, or those of what is to be evaluated.
std::vector<Header> find_ranges(const CheckpointReader& reader, const Gpt2& model, const Evaluated* evaluated) {
  std::vector<Header> headers;
  for (const QuantLinear& linear : model.linears()) {
    for (const bool of_weight : {false, true}) {
      const Quantizer& quantizer = quantizer_of(linear, of_weight);
      Header header{.layer = linear.spec().index, .of_weight = of_weight ? 1 : 0, .widths = {}};
      if (evaluated == nullptr) find_training_ranges(reader, quantizer, header, headers);
      if (evaluated == nullptr || of_weight || !quantizer.ever_needs_ranges()) continue;
      for (std::size_t i = 0; i < evaluated->size(); ++i) {
        header.evaluated = static_cast<std::int64_t>(i);
        find_range(reader, quantizer, header, *evaluated, headers);
      }
    }
  }
  return headers;
}

// Ranges as bytes, for another stage of the same program.
class RangeBytes {
 public:
  void number(std::int64_t value) { raw(&value, sizeof(value)); }
  void text(const std::string& value) {
    number(std::ssize(value));
    bytes_ += value;
  }
  void tensor(const at::Tensor& t) {
    number(t.defined() ? t.numel() : -1);
    if (t.defined()) raw(const_span(t).data(), const_span(t).size_bytes());
  }
  std::string take() && { return std::move(bytes_); }

 private:
  void raw(const void* data, std::size_t count) { bytes_.append(static_cast<const char*>(data), count); }
  std::string bytes_;
};

class RangeParser {
 public:
  explicit RangeParser(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }
  std::int64_t number() {
    std::int64_t value = 0;
    std::memcpy(&value, raw(sizeof(value)).data(), sizeof(value));
    return value;
  }
  std::string text() { return std::string(raw(static_cast<std::size_t>(number()))); }
  at::Tensor tensor() {
    const std::int64_t elems = number();
    if (elems < 0) return {};
    at::Tensor t = at::empty({elems}, at::kFloat);
    const std::span<float> values = span_of(t);
    std::memcpy(values.data(), raw(values.size_bytes()).data(), values.size_bytes());
    return t;
  }

 private:
  std::string_view raw(std::size_t count) {
    QAT_CHECK(count <= bytes_.size(), "a stage's ranges end too early");
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }
  std::string_view bytes_;
};

std::string to_bytes(const std::vector<StoredRange>& ranges) {
  RangeBytes bytes;
  for (const auto& [group, range] : ranges) {
    bytes.text(group);
    bytes.tensor(range.lo), bytes.tensor(range.hi), bytes.tensor(range.mean);
    bytes.number(range.batches), bytes.number(range.step);
  }
  return std::move(bytes).take();
}

void add_ranges(std::string_view bytes, std::vector<StoredRange>& ranges) {
  for (RangeParser parser(bytes); !parser.done();) {
    StoredRange& one = ranges.emplace_back();
    one.group = parser.text();
    one.range.lo = parser.tensor(), one.range.hi = parser.tensor(), one.range.mean = parser.tensor();
    one.range.batches = parser.number(), one.range.step = parser.number();
  }
}

// The root's headers, on every rank.
void share(std::vector<Header>& headers, dist::Communicator& comm) {
  std::vector<std::int64_t> count = {static_cast<std::int64_t>(headers.size())};
  comm.broadcast(view(std::span(count)), /*root=*/0);
  headers.resize(static_cast<std::size_t>(count[0]));
  if (headers.empty()) return;
  const auto bytes = static_cast<std::int64_t>(headers.size() * sizeof(Header));
  comm.broadcast({headers.data(), bytes, DType::kUInt8, Device::kCpu}, /*root=*/0);
}

// Calls `take(header, range)` for every range of training, or of what is to be evaluated, that is of this stage.
template <typename Take>
void read_ranges(const CheckpointReader* reader, const Gpt2& model, const Evaluated* evaluated,
                 dist::Communicator& comm, const Take& take) {
  std::vector<Header> headers;
  on_root(comm, "loading calibrated ranges", [&] { headers = find_ranges(*reader, model.whole(), evaluated); });
  share(headers, comm);
  const at::Device device = model.parameters().device();
  for (const Header& header : headers) {
    const Quantizer& quantizer = quantizer_of(model.whole().linear(header.layer), header.of_weight != 0);
    const std::string group = group_of(quantizer, header, evaluated == nullptr ? Evaluated() : *evaluated);
    const auto get = [&](const char* part) {
      at::Tensor t = at::empty({header.groups}, at::kFloat);
      on_root(comm, "loading calibrated ranges",
              [&] { reader->read_tensor(group + part, {header.groups}, span_of(t)); });
      comm.broadcast(view(span_of(t)), /*root=*/0);
      return t.to(device);
    };
    CalibratedRange range{
        .lo = get("/lo"), .hi = get("/hi"), .mean = {}, .batches = header.batches, .step = header.step};
    if (header.has_mean != 0) range.mean = get("/mean");
    if (model.has_linear(header.layer)) take(header, std::move(range));
  }
}

}  // namespace

std::vector<StoredRange> ranges_of_all_stages(const Gpt2& model, const EvaluationRanges& evaluation,
                                              const dist::Grid& grid) {
  if (grid.data_rank() != 0) return {};
  std::vector<StoredRange> ranges;
  const auto add = [&](std::string group, const CalibratedRange& range) {
    const auto host = [](const at::Tensor& t) { return t.defined() ? t.to(at::kCPU) : t; };
    ranges.push_back({.group = std::move(group),
                      .range = {.lo = host(range.lo),
                                .hi = host(range.hi),
                                .mean = host(range.mean),
                                .batches = range.batches,
                                .step = range.step}});
  };
  for (const QuantLinear& linear : model.linears()) {
    for (const bool of_weight : {false, true}) {
      const Quantizer& quantizer = quantizer_of(linear, of_weight);
      for (const auto& [widths, range] : quantizer.ranges()) add(training_group(quantizer, widths), range);
    }
  }
  for (const auto& [at, table] : evaluation)
    for (const auto& [layer, range] : table)
      add(evaluation_group(model.linear(layer).activation_quantizer(), at), range);
  if (grid.stages() == 1) return ranges;
  std::vector<StoredRange> all;
  for (const std::string& of_stage : dist::gather_strings(grid.pipeline(), to_bytes(ranges))) add_ranges(of_stage, all);
  return all;
}

void write_ranges(CheckpointWriter& writer, const std::vector<StoredRange>& ranges) {
  for (const auto& [group, range] : ranges) {
    const auto put = [&](const char* part, const at::Tensor& t) {
      if (t.defined()) writer.write_tensor(group + part, {t.numel()}, const_span(t));
    };
    put("/lo", range.lo), put("/hi", range.hi), put("/mean", range.mean);
    writer.set_attribute(group + "/lo", "batches", range.batches);
    writer.set_attribute(group + "/lo", "step", range.step);
  }
}

void load_ranges(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm) {
  read_ranges(reader, model, /*evaluated=*/nullptr, comm, [&](const Header& header, CalibratedRange range) {
    quantizer_of(model.linear(header.layer), header.of_weight != 0).put_in_force(header.widths, std::move(range));
  });
}

EvaluationRanges load_evaluation_ranges(const CheckpointReader* reader, const Gpt2& model, dist::Communicator& comm,
                                        const std::vector<EvaluatedAt>& widths) {
  EvaluationRanges ranges;
  read_ranges(reader, model, &widths, comm, [&](const Header& header, CalibratedRange range) {
    ranges[widths[static_cast<std::size_t>(header.evaluated)]][header.layer] = std::move(range);
  });
  return ranges;
}

}  // namespace qat
