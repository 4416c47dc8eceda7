#include "src/train/range_state.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

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
std::string evaluation_group(const Quantizer& quantizer, std::int64_t bits) {
  return fmt::format("/evaluation/{}/{}/{}", bits, quantizer.layer(), quantizer.role());
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

void write_range(CheckpointWriter& writer, const std::string& group, const CalibratedRange& range) {
  const auto put = [&](const char* part, const at::Tensor& t) {
    if (t.defined()) writer.write_tensor(group + part, {t.numel()}, const_span(t.to(at::kCPU)));
  };
  put("/lo", range.lo), put("/hi", range.hi), put("/mean", range.mean);
  writer.set_attribute(group + "/lo", "batches", range.batches);
  writer.set_attribute(group + "/lo", "step", range.step);
}

// What the other ranks must know to receive a range.
struct Header {
  std::int64_t layer = 0;      // index in PrecisionMap
  std::int64_t of_weight = 0;  // else of the inputs
  std::int64_t evaluated = 0;  // the width whose evaluation it belongs to; 0: it is training's
  RangeWidths widths;          // training's
  std::int64_t groups = 0;
  std::int64_t batches = 0;
  std::int64_t step = 0;
  std::int64_t has_mean = 0;
};

template <typename Linear>
auto& quantizer_of(Linear& linear, bool of_weight) {
  return of_weight ? linear.weight_quantizer() : linear.activation_quantizer();
}

std::string group_of(const Quantizer& quantizer, const Header& header) {
  return header.evaluated != 0 ? evaluation_group(quantizer, header.evaluated)
                               : training_group(quantizer, header.widths);
}

// Adds the range of `header`'s group, if it is there.
void find_range(const CheckpointReader& reader, const Quantizer& quantizer, Header header,
                std::vector<Header>& headers) {
  const std::string group = group_of(quantizer, header), lo = group + "/lo";
  if (!reader.has_tensor(lo)) return;
  header.groups = element_count(reader.tensor_info(lo).shape);
  header.batches = reader.attribute<std::int64_t>(lo, "batches");
  // Older checkpoints do not say: ranges were taken once, at the first use of their width.
  header.step = reader.has_attribute(lo, "step") ? reader.attribute<std::int64_t>(lo, "step") : 0;
  header.has_mean = reader.has_tensor(group + "/mean") ? 1 : 0;
  headers.push_back(header);
}

enum class RangesOf : std::uint8_t { kTraining, kEvaluation };

void find_training_ranges(const CheckpointReader& reader, const Quantizer& quantizer, Header header,
                          std::vector<Header>& headers) {
  for (const std::string& name :
       reader.tensor_names(fmt::format("/quant/{}/{}", quantizer.layer(), quantizer.role()))) {
    if (!name.ends_with("/lo")) continue;
    const auto widths = widths_of(name.substr(0, name.size() - 3));
    if (!widths) continue;
    header.widths = *widths;
    find_range(reader, quantizer, header, headers);
  }
}

std::vector<Header> find_ranges(const CheckpointReader& reader, const Gpt2& model, RangesOf which) {
  std::vector<Header> headers;
  for (const QuantLinear& linear : model.linears()) {
    for (const bool of_weight : {false, true}) {
      const Quantizer& quantizer = quantizer_of(linear, of_weight);
      if (!quantizer.needs_ranges()) continue;
      Header header{.layer = linear.spec().index, .of_weight = of_weight ? 1 : 0, .widths = {}};
      for (int bits = BitWidth::kMin; which == RangesOf::kEvaluation && !of_weight && bits <= BitWidth::kMax; ++bits) {
        header.evaluated = bits;
        find_range(reader, quantizer, header, headers);
      }
      if (which == RangesOf::kTraining) find_training_ranges(reader, quantizer, header, headers);
    }
  }
  return headers;
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

// Calls `take(header, range)` for every range below a group of names.
template <typename Take>
void read_ranges(const CheckpointReader* reader, const Gpt2& model, RangesOf which, dist::Communicator& comm,
                 const Take& take) {
  std::vector<Header> headers;
  on_root(comm, "loading calibrated ranges", [&] { headers = find_ranges(*reader, model, which); });
  share(headers, comm);
  const at::Device device = model.parameters().device();
  for (const Header& header : headers) {
    const Quantizer& quantizer = quantizer_of(model.linear(header.layer), header.of_weight != 0);
    const auto get = [&](const char* part) {
      at::Tensor t = at::empty({header.groups}, at::kFloat);
      on_root(comm, "loading calibrated ranges",
              [&] { reader->read_tensor(group_of(quantizer, header) + part, {header.groups}, span_of(t)); });
      comm.broadcast(view(span_of(t)), /*root=*/0);
      return t.to(device);
    };
    CalibratedRange range{
        .lo = get("/lo"), .hi = get("/hi"), .mean = {}, .batches = header.batches, .step = header.step};
    if (header.has_mean != 0) range.mean = get("/mean");
    take(header, std::move(range));
  }
}

}  // namespace

void write_ranges(CheckpointWriter& writer, const Gpt2& model, const EvaluationRanges& evaluation) {
  for (const QuantLinear& linear : model.linears()) {
    for (const bool of_weight : {false, true}) {
      const Quantizer& quantizer = quantizer_of(linear, of_weight);
      for (const auto& [widths, range] : quantizer.ranges())
        write_range(writer, training_group(quantizer, widths), range);
    }
  }
  for (const auto& [bits, table] : evaluation) {
    for (const auto& [layer, range] : table) {
      const Quantizer& quantizer = model.linear(layer).activation_quantizer();
      write_range(writer, evaluation_group(quantizer, bits), range);
    }
  }
}

void load_ranges(const CheckpointReader* reader, Gpt2& model, dist::Communicator& comm) {
  read_ranges(reader, model, RangesOf::kTraining, comm, [&](const Header& header, CalibratedRange range) {
    quantizer_of(model.linear(header.layer), header.of_weight != 0).put_in_force(header.widths, std::move(range));
  });
}

EvaluationRanges load_evaluation_ranges(const CheckpointReader* reader, const Gpt2& model, dist::Communicator& comm) {
  EvaluationRanges ranges;
  read_ranges(reader, model, RangesOf::kEvaluation, comm, [&](const Header& header, CalibratedRange range) {
    ranges[static_cast<int>(header.evaluated)][header.layer] = std::move(range);
  });
  return ranges;
}

}  // namespace qat
