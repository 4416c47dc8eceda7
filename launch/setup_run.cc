#include "launch/setup_run.h"

#include <fmt/format.h>

#include <utility>

#include "dist/comm/agree.h"
#include "launch/build_id.h"
#include "launch/failure.h"
#include "src/base/json.h"
#include "src/config/validate.h"
#include "src/data/agreed_tokens.h"
#include "src/train/on_root.h"

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

AgreedConfig agree_on_stored_config(World& world, const std::string& config_json, std::vector<std::string> sets) {
  const std::string source = "the checkpoint's configuration";
  // A micro-batch is what ranges are calibrated on.
  std::vector<std::int64_t> micro_batch = {1};
  on_root(world.comm(), "reading " + source, [&] {
    const Value stored = parse_json(config_json, source, ErrorKind::kCheckpoint);
    micro_batch[0] = stored.at("train").at("micro_batch_size").as_int();
  });
  world.comm().broadcast(view(std::span(micro_batch)), /*root=*/0);
  sets.push_back(fmt::format("train.micro_batch_size={}", micro_batch[0]));
  sets.push_back(fmt::format("train.batch_size={}", world.size() * micro_batch[0]));
  for (const char* free : {"parallel.data=0", "parallel.pipeline=1", "parallel.schedule=1f1b", "parallel.chunks=1",
                           "parallel.cut=[]", "parallel.transfer=values", "model.init=random"})
    sets.emplace_back(free);
  return agree_on_config_text(world, config_json, source, sets);
}

TokenSource open_agreed_tokens(World& world, const std::vector<std::string>& patterns, Split split, int vocab_size,
                               const std::string& named_by) {
  return qat::open_agreed_tokens(patterns, split, vocab_size, world.session().host_name(), world.comm(), named_by);
}

}  // namespace qat::launch
