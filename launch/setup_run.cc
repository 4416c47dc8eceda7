#include "launch/setup_run.h"

#include "dist/comm/agree.h"
#include "launch/build_id.h"
#include "launch/failure.h"
#include "src/config/validate.h"
#include "src/data/agreed_tokens.h"

namespace qat::launch {
namespace {

AgreedConfig agree_on(World& world, const std::function<LoadResult()>& load) {
  AgreedConfig result;
  dist::on_every_rank(world.comm(), "configuration", [&] {
    result.loaded = load();
    validate_parallel(result.loaded.config, world.size());
    result.json = to_json(config_to_json(result.loaded.config), 2);
    result.hash = config_hash(result.loaded.config);
    return result.hash;
  });
  // Another build of the program may compute other bits from the same configuration.
  dist::on_every_rank(world.comm(), "program", [] { return build_id(); });
  return result;
}

}  // namespace

void on_every_rank(World& world, std::string_view what, const std::function<std::uint64_t()>& body,
                   const RunStatus& status) {
  dist::on_every_rank(world.comm(), what, [&] {
    try {
      return body();
    } catch (const std::exception& error) {  // other libraries' too
      const dist::RankReport report = report_of(error, world, status);
      throw Error(static_cast<ErrorKind>(report.exit_code), report.message);
    }
  });
}

AgreedConfig load_agreed_config(World& world, const std::optional<std::string>& file,
                                const std::vector<std::string>& sets) {
  return agree_on(world, [&] {
    std::optional<std::filesystem::path> path;
    if (file) path = *file;
    return load_run_config(path, sets);
  });
}

AgreedConfig agree_on_config_text(World& world, const std::string& text, const std::string& source,
                                  const std::vector<std::string>& sets) {
  const std::string shared = dist::broadcast_string(world.comm(), text);
  return agree_on(world, [&] { return load_run_config_text(shared, source, sets); });
}

TokenSource open_agreed_tokens(World& world, const std::vector<std::string>& patterns, Split split, int vocab_size) {
  return qat::open_agreed_tokens(patterns, split, vocab_size, world.session().host_name(), world.comm());
}

}  // namespace qat::launch
