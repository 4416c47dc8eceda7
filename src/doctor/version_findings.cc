// The versions of libraries: the same on all ranks, and none that is known to be broken.
#include <fmt/format.h>

#include "src/doctor/finding_list.h"
#include "src/doctor/known_bad.h"

namespace qat {
namespace {

std::string cuda_text(std::int64_t number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

std::string nccl_text(std::int64_t number) {
  const auto version = nccl_version(number);
  return version ? to_text(*version) : "none";
}

void judge_library(FindingList& list, const char* library, const std::optional<LibraryVersion>& version) {
  if (!version) return;
  for (const KnownBad* bad : known_bad(library, *version))
    list.warn("versions", fmt::format("{} {}: {} ({})", library, to_text(*version), bad->what, bad->source), bad->fix);
}

// A program runs on drivers of its CUDA's major version or later (NVIDIA's CUDA Compatibility).
void judge_driver(FindingList& list) {
  const auto driver = list.where([](const RankFacts& f) {
    return f.cuda_driver > 0 && f.cuda_runtime > 0 && f.cuda_driver / 1000 < f.cuda_runtime / 1000;
  });
  if (driver.empty()) return;
  const RankFacts& one = list.first(driver);
  list.fault("versions",
             fmt::format("{}: the driver is made for CUDA {}, this program for {}", list.on_hosts(driver),
                         cuda_text(one.cuda_driver), cuda_text(one.cuda_runtime)),
             "update the driver there (CUDA 12 wants 525 or later, 13 wants 580), or build with that CUDA (cmake "
             "--preset release with its nvcc)");
}

void judge_nccl(FindingList& list) {
  const auto older = list.where(
      [](const RankFacts& f) { return f.nccl_built > 0 && f.nccl_loaded > 0 && f.nccl_loaded < f.nccl_built; });
  if (!older.empty())
    list.fault(
        "versions",
        fmt::format("{}: NCCL {} is loaded, older than {}, which this program is built with", list.on_hosts(older),
                    nccl_text(list.first(older).nccl_loaded), nccl_text(list.first(older).nccl_built)),
        "let LD_LIBRARY_PATH find that of LibTorch first");
  const auto unlike = list.where([&](const RankFacts& f) { return f.nccl_loaded != list.root().nccl_loaded; });
  if (!unlike.empty())
    list.fault("versions",
               fmt::format("NCCL of {} is {}, and rank 0's {}", list.named(unlike),
                           nccl_text(list.first(unlike).nccl_loaded), nccl_text(list.root().nccl_loaded)),
               "the same NCCL on all hosts");
}

}  // namespace

void judge_versions(FindingList& list) {
  const RankFacts& root = list.root();
  for (const auto& [name, member] : {std::pair{"LibTorch", &RankFacts::libtorch}, {"MPI", &RankFacts::mpi}}) {
    const auto other = list.where([&, of = member](const RankFacts& f) { return f.*of != root.*of; });
    if (!other.empty())
      list.fault("versions",
                 fmt::format("{} of {} is {}, and rank 0's {}", name, list.named(other), list.first(other).*member,
                             root.*member),
                 "the same libraries on all hosts: module load, or LD_LIBRARY_PATH, as on rank 0's");
  }
  std::string text = fmt::format("LibTorch {}, {}", root.libtorch, root.mpi);
  if (root.cuda_runtime > 0) text += ", CUDA " + cuda_text(root.cuda_runtime);
  if (root.cuda_driver > 0) text += " (driver: " + cuda_text(root.cuda_driver) + ")";
  if (root.nccl_loaded > 0) text += ", NCCL " + nccl_text(root.nccl_loaded);
  list.ok("versions", text);
  judge_library(list, "Open MPI", open_mpi_version(root.mpi));
  if (list.on_gpus()) judge_library(list, "NCCL", nccl_version(root.nccl_loaded));
  judge_driver(list);
  judge_nccl(list);
}

}  // namespace qat
