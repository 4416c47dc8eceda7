#include "launch/setup_run.h"

#include "dist/comm/agree.h"
#include "launch/build_id.h"
#include "launch/failure.h"
#include "src/config/validate.h"

namespace qat::launch {
namespace {

AgreedConfig agree_on(World& world, const std::function<LoadResult()>& load) {
  AgreedConfig result;
  on_every_rank(world, "configuration", [&] {
    result.loaded = load();
    validate_parallel(result.loaded.config, world.size());
    result.json = to_json(config_to_json(result.loaded.config), 2);
    result.hash = config_hash(result.loaded.config);
    return result.hash;
  });
  // Another build of the program may compute other bits from the same configuration.
  on_every_rank(world, "program", [] { return build_id(); });
  return result;
}

}  // namespace

void on_every_rank(World& world, std::string_view what, const std::function<std::uint64_t()>& body) {
  dist::RankReport report;
  try {
    report.hash = body();
  } catch (const std::exception& error) {
    report = report_of(error);
  }
  dist::agree(world.comm(), report, what);
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
  TokenSource source;
  on_every_rank(world, split == Split::kTrain ? "training tokens" : "held-out tokens", [&] {
    source = open_tokens(patterns, split);
    source.check_vocabulary(vocab_size);
    // Ranks that see other files of the same name would train on other text: compared by their sizes.
    return static_cast<std::uint64_t>(source.total_tokens());
  });
  return source;
}

}  // namespace qat::launch
