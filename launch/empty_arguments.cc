#include "launch/empty_arguments.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace qat::launch {
namespace {

constexpr std::array<std::string_view, 4> kMayBeEmpty = {"--set", "--prompt", "--stop", "--launcher"};

}  // namespace

void refuse_empty_arguments(CLI::App& app) {
  const CLI::Validator not_empty(
      [](const std::string& text) -> std::string {
        return text.empty() ? "is empty: give it a value, or leave it out" : "";
      },
      "");
  for (CLI::Option* option : app.get_options()) {
    const bool takes_text = option->get_items_expected_max() > 0;
    if (takes_text && std::find(kMayBeEmpty.begin(), kMayBeEmpty.end(), option->get_name()) == kMayBeEmpty.end())
      option->check(not_empty);
  }
  for (CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) refuse_empty_arguments(*sub);
}

}  // namespace qat::launch
