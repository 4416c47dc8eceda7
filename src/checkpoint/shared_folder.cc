#include "src/checkpoint/shared_folder.h"

#include <fmt/format.h>

#include <optional>
#include <random>
#include <system_error>
#include <thread>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/checkpoint/durable_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kBetweenLooks{50};

// A file of a name that nobody has seen before: no node has it in its cache as absent.
class Token {
 public:
  explicit Token(const fs::path& folder) {
    std::random_device random;
    path_ = fs::absolute(folder) / fmt::format(".seen-by-all-{:08x}{:08x}", random(), random());
    write_file_durably(path_, "");
  }
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;
  ~Token() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

bool wait_to_see(const fs::path& path, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  std::error_code error;
  while (!fs::exists(path, error)) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return true;
}

void require_shared_folder(const fs::path& folder, std::string_view key, std::span<const std::string> hosts,
                           dist::Communicator& comm, std::chrono::milliseconds patience) {
  std::optional<Token> token;  // rank 0's
  dist::on_every_rank(comm, key, [&] {
    if (comm.rank() == 0) token.emplace(folder);
  });
  const fs::path path = dist::broadcast_string(comm, token ? token->path().string() : "");
  const auto name_of = [&](int rank) {
    return hosts.empty() ? fmt::format("rank {}", rank) : hosts[static_cast<std::size_t>(rank)];
  };
  dist::on_every_rank(comm, key, [&] {
    if (wait_to_see(path, patience)) return;
    throw Error(
        ErrorKind::kConfig,
        fmt::format("{}: {} does not see the folder {} of {}. Every rank writes its part of a checkpoint there: "
                    "name a folder on a file system that all nodes share, under the same path on each",
                    key, name_of(comm.rank()), path.parent_path().string(), name_of(0)));
  });
}

}  // namespace qat
