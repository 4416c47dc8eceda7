// A step plan as bytes: fixed-width numbers in the machine's order, lists with their count in front.
#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

#include "dist/control/step_plan.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

constexpr std::uint32_t kVersion = 0x51415405;  // "QAT", 5: 4 said nothing of the next step

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::kInternal, "internal error: a step plan that cannot be read: " + what);
}

class Writer {
 public:
  template <typename T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void put(bool value) { put<std::uint8_t>(value ? 1 : 0); }
  template <typename T, typename Put>
  void put_list(const std::vector<T>& list, Put&& put_one) {
    put(static_cast<std::uint32_t>(list.size()));
    for (const T& one : list) put_one(one);
  }
  std::vector<std::uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<std::uint8_t> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : rest_(bytes) {}

  template <typename T>
  T get() {
    if constexpr (std::is_same_v<T, bool>) {
      const auto value = get<std::uint8_t>();
      if (value > 1) refuse("a flag of " + std::to_string(value));
      return value == 1;
    } else {
      if (rest_.size() < sizeof(T)) refuse("it ends in the middle");
      T value;
      std::memcpy(&value, rest_.data(), sizeof(T));
      rest_ = rest_.subspan(sizeof(T));
      return value;
    }
  }
  // An element takes at least `least` bytes: no count makes this reserve more memory than the message has.
  template <typename T, typename Get>
  std::vector<T> get_list(std::size_t least, Get&& get_one) {
    const auto count = get<std::uint32_t>();
    if (count > rest_.size() / least)
      refuse(std::to_string(count) + " entries in " + std::to_string(rest_.size()) + " bytes");
    std::vector<T> list;
    list.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) list.push_back(get_one());
    return list;
  }
  void end() const {
    if (!rest_.empty()) refuse(std::to_string(rest_.size()) + " bytes after its end");
  }

 private:
  std::span<const std::uint8_t> rest_;
};

constexpr std::size_t kLeastWidthsBytes = 20, kNumberBytes = 4, kRateBytes = 8;
constexpr std::size_t kLeastPassBytes = 4 + 1 + 4 * 8 + 2 * 4, kLeastUpdateBytes = 4 + 4 + 4;

void put(Writer& out, const PassPlan& pass) {
  out.put(pass.map);
  out.put(pass.trains);
  for (const double weight :
       {pass.loss.cross_entropy, pass.loss.distillation, pass.loss.temperature, pass.loss.features})
    out.put(weight);
  for (const auto* numbers : {&pass.teachers, &pass.feature_layers})
    out.put_list(*numbers, [&](std::uint32_t number) { out.put(number); });
}

void put(Writer& out, const PlannedWidths& widths) {
  for (const std::int32_t number : {widths.weight_bits, widths.activation_bits, widths.gradient_bits, widths.bitmap})
    out.put(number);
  out.put_list(widths.block_bits, [&](std::int32_t bits) { out.put(bits); });
}

PlannedWidths get_widths(Reader& in) {
  PlannedWidths widths;
  for (std::int32_t* number : {&widths.weight_bits, &widths.activation_bits, &widths.gradient_bits, &widths.bitmap})
    *number = in.get<std::int32_t>();
  widths.block_bits = in.get_list<std::int32_t>(kNumberBytes, [&] { return in.get<std::int32_t>(); });
  return widths;
}

PassPlan get_pass(Reader& in) {
  PassPlan pass;
  pass.map = in.get<std::uint32_t>();
  pass.trains = in.get<bool>();
  for (double* weight :
       {&pass.loss.cross_entropy, &pass.loss.distillation, &pass.loss.temperature, &pass.loss.features})
    *weight = in.get<double>();
  for (auto* numbers : {&pass.teachers, &pass.feature_layers})
    *numbers = in.get_list<std::uint32_t>(kNumberBytes, [&] { return in.get<std::uint32_t>(); });
  return pass;
}

UpdatePlan get_update(Reader& in) {
  UpdatePlan update;
  update.learning_rate = in.get<float>();
  update.passes = in.get_list<PassPlan>(kLeastPassBytes, [&] { return get_pass(in); });
  update.width_rates = in.get_list<WidthRate>(kRateBytes, [&] {
    const auto bits = in.get<std::int32_t>();
    return WidthRate{.weight_bits = bits, .learning_rate = in.get<float>()};
  });
  return update;
}

}  // namespace

std::vector<std::uint8_t> encode(const StepPlan& plan) {
  Writer out;
  out.put(kVersion);
  for (const std::uint64_t number : {plan.step, plan.config_hash, plan.first_sample}) out.put(number);
  out.put_list(plan.maps, [&](const PlannedWidths& widths) { put(out, widths); });
  out.put_list(plan.updates, [&](const UpdatePlan& update) {
    out.put(update.learning_rate);
    out.put_list(update.passes, [&](const PassPlan& pass) { put(out, pass); });
    out.put_list(update.width_rates, [&](const WidthRate& own) {
      out.put(own.weight_bits);
      out.put(own.learning_rate);
    });
  });
  for (const bool flag : {plan.evaluate_after, plan.checkpoint_after}) out.put(flag);
  out.put_list(plan.ahead, [&](const PlannedWidths& widths) { put(out, widths); });
  return out.take();
}

StepPlan decode_step_plan(std::span<const std::uint8_t> bytes) {
  Reader in(bytes);
  if (const auto version = in.get<std::uint32_t>(); version != kVersion)
    refuse("version " + std::to_string(version) + ", not " + std::to_string(kVersion));
  StepPlan plan;
  for (std::uint64_t* number : {&plan.step, &plan.config_hash, &plan.first_sample}) *number = in.get<std::uint64_t>();
  plan.maps = in.get_list<PlannedWidths>(kLeastWidthsBytes, [&] { return get_widths(in); });
  plan.updates = in.get_list<UpdatePlan>(kLeastUpdateBytes, [&] { return get_update(in); });
  for (bool* flag : {&plan.evaluate_after, &plan.checkpoint_after}) *flag = in.get<bool>();
  plan.ahead = in.get_list<PlannedWidths>(kLeastWidthsBytes, [&] { return get_widths(in); });
  in.end();
  check(plan);
  return plan;
}

}  // namespace qat::dist
