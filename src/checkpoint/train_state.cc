#include "src/checkpoint/train_state.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>
#include <type_traits>

namespace qat {
namespace {

constexpr char kGroup[] = "/state";
constexpr char kVersionKey[] = "version";

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

// Attributes have no unsigned integers: these are kept as decimal text, which every reader shows right.
std::uint64_t parse_unsigned(const std::string& text, const char* key, const CheckpointReader& reader) {
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size()) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}: {}/{} is '{}', expected an unsigned integer",
                                                    reader.info().folder.string(), kGroup, key, text));
  }
  return value;
}

}  // namespace

void save_train_state(CheckpointWriter& writer, const TrainState& state) {
  QAT_CHECK(state.step == writer.step(), "the training state is of another step than its checkpoint");
  writer.set_attribute(kGroup, kVersionKey, kTrainStateVersion);
  visit_fields(state, [&]<typename T>(const char* key, const T& value) {
    if constexpr (std::is_same_v<T, std::uint64_t>)
      writer.set_attribute(kGroup, key, std::to_string(value));
    else
      writer.set_attribute(kGroup, key, value);
  });
}

TrainState load_train_state(const CheckpointReader& reader) {
  const auto version = reader.attribute<std::int64_t>(kGroup, kVersionKey);
  if (version > kTrainStateVersion || version < 1) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{}: training state of version {}, this program reads versions 1 to {}: use the program "
                            "that wrote it, or a newer one",
                            reader.info().folder.string(), version, kTrainStateVersion));
  }
  TrainState state;
  visit_fields(state, [&]<typename T>(const char* key, T& value) {
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      value = parse_unsigned(reader.attribute<std::string>(kGroup, key), key, reader);
    } else {
      value = reader.attribute<T>(kGroup, key);
    }
  });
  return state;
}

}  // namespace qat
