#include "src/text/byte_pair_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/text/pre_tokenizer.h"

namespace qat {
namespace {

// Piece -> ids, one place for each hash value; a new piece replaces the one that was there. 2 MB.
class PieceCache {
 public:
  static constexpr std::size_t kMaxBytes = 31;
  static constexpr std::size_t kMaxIds = 7;

  struct Key {
    std::array<char, kMaxBytes> bytes{};
    std::uint8_t length = 0;
  };
  struct alignas(64) Entry {
    Key key;
    std::array<int, kMaxIds> ids{};
    int count = 0;  // 0: the place is empty
  };
  static_assert(sizeof(Key) == 32 && sizeof(Entry) == 64, "one cache line a piece, two 16-byte compares a look-up");

  static Key make_key(std::string_view piece) {
    Key key;
    std::memcpy(key.bytes.data(), piece.data(), piece.size());
    key.length = static_cast<std::uint8_t>(piece.size());
    return key;
  }
  Entry& place_of(const Key& key) { return entries_[XXH3_64bits(key.bytes.data(), key.length) & (kEntries - 1)]; }
  static bool holds(const Entry& entry, const Key& key) {
    return entry.count > 0 && std::memcmp(&entry.key, &key, sizeof(Key)) == 0;
  }

 private:
  static constexpr std::size_t kEntries = std::size_t{1} << 15;
  std::vector<Entry> entries_ = std::vector<Entry>(kEntries);
};

}  // namespace

struct BytePairTokenizer::Workspace {
  PieceCache cache;
};

struct BytePairTokenizer::WorkspacePool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Workspace>> idle;

  std::unique_ptr<Workspace> take() {
    {
      const std::lock_guard lock(mutex);
      if (!idle.empty()) {
        std::unique_ptr<Workspace> workspace = std::move(idle.back());
        idle.pop_back();
        return workspace;
      }
    }
    return std::make_unique<Workspace>();
  }
  void give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(workspace));
  }
};

BytePairTokenizer::BytePairTokenizer(BytePairVocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), merger_(vocabulary_.merges), pool_(std::make_unique<WorkspacePool>()) {}
BytePairTokenizer::~BytePairTokenizer() = default;
BytePairTokenizer::BytePairTokenizer(BytePairTokenizer&&) noexcept = default;

BytePairTokenizer BytePairTokenizer::load(const std::string& merges_path, const std::string& vocab_path) {
  return BytePairTokenizer(load_vocabulary(merges_path, vocab_path));
}

void BytePairTokenizer::encode_plain(std::string_view text, std::vector<int>& out) const {
  if (text.empty()) return;
  std::unique_ptr<Workspace> workspace = pool_->take();  // lost, not returned, if an error passes through
  PreTokenCursor cursor(text);
  std::string_view piece;
  while (cursor.next(piece)) {
    if (piece.size() > PieceCache::kMaxBytes) {
      merger_.merge(piece, out);
      continue;
    }
    const PieceCache::Key key = PieceCache::make_key(piece);
    PieceCache::Entry& entry = workspace->cache.place_of(key);
    if (PieceCache::holds(entry, key)) {
      out.insert(out.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
      continue;
    }
    const std::size_t before = out.size();
    merger_.merge(piece, out);
    const std::size_t count = out.size() - before;
    if (count > PieceCache::kMaxIds) continue;
    entry.key = key;
    entry.count = static_cast<int>(count);
    std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(before), count, entry.ids.begin());
  }
  pool_->give_back(std::move(workspace));
}

}  // namespace qat
