#include "src/config/schema.h"

#include <fmt/format.h>

#include <memory>

#include "launch/command.h"

namespace qat::launch {

Run add_schema(CLI::App& app) {
  auto markdown = std::make_shared<bool>(false);
  app.add_flag("--markdown", *markdown, "the table of docs/configuration.md instead");
  return [markdown](Invocation) {
    fmt::print("{}", *markdown ? configuration_markdown() : configuration_schema());
    return 0;
  };
}

}  // namespace qat::launch
