// Enumerations whose values have names: those of the configuration, and of whatever else is written down.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace qat {

// Specialized beside each such enumeration, whose values count up from 0:
//   enum class Colour : unsigned char { kRed, kGreen };
//   template <> struct EnumNames<Colour> { static constexpr std::array names{"red", "green"}; };
template <typename E>
struct EnumNames;

template <typename E>
concept NamedEnum = std::is_enum_v<E> && requires {
  EnumNames<E>::names.size();
};

template <NamedEnum E>
constexpr const char* enum_name(E value) {
  return EnumNames<E>::names[static_cast<std::size_t>(value)];
}

// The value of that name, or none.
template <NamedEnum E>
constexpr std::optional<E> enum_value(std::string_view name) {
  for (std::size_t i = 0; i < EnumNames<E>::names.size(); ++i)
    if (name == EnumNames<E>::names[i]) return static_cast<E>(i);
  return std::nullopt;
}

template <NamedEnum E>
std::vector<std::string> enum_names() {
  return {EnumNames<E>::names.begin(), EnumNames<E>::names.end()};
}

}  // namespace qat
