// What makes a checkpoint outlive a crash: fsync, atomic renames, and a hash of what was written. Every function throws
// Error(kCheckpoint) with the path and the system's reason.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace qat {

// XXH3, 64 bits, of the whole file. on_block: called for every few MiB; what it throws ends this.
std::uint64_t hash_file(const std::filesystem::path& path, const std::function<void()>& on_block = {});

// Asks the kernel to begin writing the file's pages out, so that the disk works while the file is hashed. A hint.
void start_writeback(const std::filesystem::path& path) noexcept;

// Returns when the content is on stable storage; for a folder, when its entries are.
void sync_to_disk(const std::filesystem::path& path);
// The same for a large file, with a call of `on_slice` for every 32 MiB: a slow disk shows that it works.
void sync_in_slices(const std::filesystem::path& path, const std::function<void()>& on_slice);

// A new file with this content, synced.
void write_file_durably(const std::filesystem::path& path, std::string_view content);

// Throws when the file is larger than max_bytes.
std::string read_small_file(const std::filesystem::path& path, std::int64_t max_bytes);

// Bytes that an unprivileged writer may still use on the file system of `path`; -1 when unknown.
std::int64_t free_bytes(const std::filesystem::path& path) noexcept;

// Gives `fresh` the name `target`. A folder that has that name already takes the name `fresh` (one atomic exchange) or,
// where the file system cannot exchange, `aside`: at every instant the old or the new one is complete under a name
// that sweep_leftovers() knows. Returns the path of the old folder, empty when there was none.
std::filesystem::path move_into_place(const std::filesystem::path& fresh, const std::filesystem::path& target,
                                      const std::filesystem::path& aside);

}  // namespace qat
