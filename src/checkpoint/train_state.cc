#include "src/checkpoint/train_state.h"

#include <fmt/format.h>

#include <charconv>
#include <span>
#include <system_error>
#include <type_traits>
#include <vector>

#include "src/base/json.h"

namespace qat {
namespace {

constexpr char kGroup[] = "/state";
constexpr char kVersionKey[] = "version";
constexpr char kDataTensor[] = "/state/data";  // the text of data_json

// The one list of fields, for both directions. Field is called with (attribute name, reference to the member).
template <typename State, typename Field>
void visit_fields(State& state, const Field& field) {
  field("step", state.step);
  field("seed", state.seed);
  field("config_hash", state.config_hash);
  field("config_json", state.config_json);
  field("world_size", state.world_size);
  field("consumed_samples", state.consumed_samples);
  field("consumed_tokens", state.consumed_tokens);
  field("skips_in_row", state.skips_in_row);
  field("skips_total", state.skips_total);
  field("bitops", state.bitops);
  field("bitops_at_full", state.bitops_at_full);
}

// Fields that came later: they keep their defaults where a checkpoint lacks them.
template <typename State, typename Field>
void visit_later_fields(State& state, const Field& field) {
  field("branch_step", state.branch_step);
  field("healthy_step", state.healthy_step);
  field("evaluated_step", state.evaluated_step);
  field("best_step", state.best_step);
  field("best_loss", state.best_loss);
  field("stale_evaluations", state.stale_evaluations);
  field("loss_statistics", state.loss_statistics);
  field("precision_usage", state.precision_usage);
  field("range_test", state.range_test);
  field("wire", state.wire);
}

// Attributes have no unsigned integers: these are kept as decimal text, which every reader shows right.
std::uint64_t parse_unsigned(const std::string& text, const char* key, const std::string& source) {
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size()) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{}: {}/{} is '{}', expected an unsigned integer", source, kGroup, key, text));
  }
  return value;
}

}  // namespace

void save_train_state(CheckpointWriter& writer, const TrainState& state) {
  QAT_CHECK(state.step == writer.step(), "the training state is of another step than its checkpoint");
  writer.set_attribute(kGroup, kVersionKey, kTrainStateVersion);
  const auto write = [&]<typename T>(const char* key, const T& value) {
    if constexpr (std::is_same_v<T, std::uint64_t>)
      writer.set_attribute(kGroup, key, std::to_string(value));
    else
      writer.set_attribute(kGroup, key, value);
  };
  visit_fields(state, write);
  visit_later_fields(state, write);
  const auto size = static_cast<std::int64_t>(state.data_json.size());
  if (size > 0) writer.write_tensor(kDataTensor, {size}, std::as_bytes(std::span(state.data_json)));
}

TrainState load_train_state(const CheckpointReader& reader) {
  const auto version = reader.attribute<std::int64_t>(kGroup, kVersionKey);
  if (version > kTrainStateVersion || version < 1) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{}: training state of version {}, this program reads versions 1 to {}: use the program "
                            "that wrote it, or a newer one",
                            reader.info().folder.string(), version, kTrainStateVersion));
  }
  TrainState state{.version = version};
  const auto read = [&]<typename T>(const char* key, T& value) {
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      value = parse_unsigned(reader.attribute<std::string>(kGroup, key), key, reader.info().folder.string());
    } else {
      value = reader.attribute<T>(kGroup, key);
    }
  };
  visit_fields(state, read);
  visit_later_fields(state, [&](const char* key, auto& value) {
    if (reader.has_attribute(kGroup, key)) read(key, value);
  });
  if (reader.has_tensor(kDataTensor)) {
    const std::vector<std::uint8_t> text = reader.read_tensor<std::uint8_t>(kDataTensor);
    state.data_json.assign(text.begin(), text.end());
  }
  return state;
}

std::string to_text(const TrainState& state) {
  Value object = Value::object();
  const auto put = [&]<typename T>(const char* key, const T& value) {
    if constexpr (std::is_same_v<T, std::uint64_t>)
      object.set(key, std::to_string(value));  // JSON integers have 63 bits
    else
      object.set(key, value);
  };
  visit_fields(state, put);
  visit_later_fields(state, put);
  put("data_json", state.data_json);
  put("version", state.version);
  return to_json(object);
}

TrainState train_state_from_text(const std::string& text) {
  const char* const source = "the training state";
  const Value object = parse_json(text, source, ErrorKind::kInternal);
  TrainState state;
  const auto get = [&]<typename T>(const char* key, T& value) {
    const Value& found = object.at(key);
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      value = parse_unsigned(found.as_string(), key, source);
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = found.as_string();
    } else if constexpr (std::is_same_v<T, double>) {
      value = found.as_double();
    } else {
      value = found.as_int();
    }
  };
  visit_fields(state, get);
  visit_later_fields(state, get);
  get("data_json", state.data_json);
  get("version", state.version);
  return state;
}

}  // namespace qat
