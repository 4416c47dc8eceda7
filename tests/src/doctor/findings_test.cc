#include "src/doctor/findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "src/doctor/known_bad.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Four ranks on two hosts with nothing wrong.
std::vector<RankFacts> healthy() {
  std::vector<RankFacts> all;
  for (int rank = 0; rank < 4; ++rank)
    all.push_back({.rank = rank,
                   .host = rank < 2 ? "q1" : "q2",
                   .local_rank = rank % 2,
                   .local_size = 2,
                   .version = "0.1.0",
                   .build = "ab",
                   .compiler = "g++ 12.2",
                   .libtorch = "2.11.0",
                   .mpi = "Open MPI v4.1.4",
                   .cores = 4,
                   .allowed_cores = 4,
                   .load = 0.5,
                   .memory_free = std::int64_t{8} << 30,
                   .memory_source = "free memory of this host",
                   .shared_folder = "/dev/shm",
                   .shared_free = std::int64_t{1} << 30,
                   .shared_needed = std::int64_t{8} << 20,
                   .open_files = 4096,
                   .folder = "/data/runs",
                   .folder_type = "nfs",
                   .folder_free = std::int64_t{100} << 30,
                   .folder_sync_s = 0.01,
                   .interfaces = {"lo 127.0.0.1", "eth0 10.0.0.1"},
                   .launcher = "srun --mpi=pmix",
                   .slurm_job = "7",
                   .code_products = 100e9,
                   .float_products = 50e9,
                   .copy_bytes = 10e9});
  return all;
}

LinkFacts links() {
  LinkFacts facts{.backend = "mpi", .node_bytes = 2e9, .network_bytes = 1e9};
  for (int from = 0; from < 4; ++from)
    facts.ring.push_back(
        {.from = from, .to = (from + 1) % 4, .same_host = from % 2 == 0, .bytes = 1e9, .latency_s = 1e-6});
  return facts;
}

// What is not ok, as "level topic text".
std::vector<std::string> complaints(const std::vector<RankFacts>& facts, const LinkFacts& of = links()) {
  std::vector<std::string> texts;
  for (const MachineFinding& one : judge(facts, of)) {
    if (one.level == FindingLevel::kOk) continue;
    EXPECT_FALSE(one.fix.empty()) << one.text;
    texts.push_back(std::string(enum_name(one.level)) + " " + one.topic + ": " + one.text);
  }
  return texts;
}

TEST(Findings, AHealthyMachineHasNoComplaints) {
  EXPECT_THAT(complaints(healthy()), ::testing::IsEmpty());
  const auto findings = judge(healthy(), links());
  EXPECT_FALSE(has_fault(findings));
  const std::string text = to_text(findings, healthy());
  EXPECT_THAT(text, AllOf(HasSubstr("4 ranks on 2 hosts, started by srun --mpi=pmix, Slurm job 7"),
                          HasSubstr("0 warnings, 0 faults")));
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 30);
}

TEST(Findings, EachTroubleIsNamedWithItsRanks) {
  struct Case {
    std::function<void(std::vector<RankFacts>&)> change;
    std::string text;
  };
  const std::vector<Case> cases = {
      {[](auto& f) { f[2].build = f[3].build = "cd"; }, "fault build: on q2 (ranks 2, 3) run another qat_dist"},
      {[](auto& f) { f[3].mpi = "Open MPI v5.0.1"; }, "fault versions: MPI of rank 3 is Open MPI v5.0.1"},
      {[](auto& f) { f[1].libtorch = "2.10.0"; }, "fault versions: LibTorch of rank 1 is 2.10.0"},
      {[](auto& f) { f[0].code_products = 60e9; },
       "warning cores: on q1 (rank 0): products on int8 codes are up to 33 %"},
      {[](auto& f) { f[2].shared_free = 1 << 20; }, "fault shared memory: on q2 (rank 2): /dev/shm has 1.00 MiB free"},
      {[](auto& f) { f[3].clock_ahead_s = -3.0; }, "warning clocks: q2 is 3.000 s behind rank 0's clock"},
      {[](auto& f) { f[2].folder_problem = "cannot lock a file"; }, "fault run folder: on q2 (rank 2): cannot lock"},
      {[](auto& f) { f[1].open_files = 256; }, "warning limits: on q1 (rank 1): at most 256 open files"},
      {[](auto& f) {
         for (auto& one : f) one.folder_free = 1 << 30;
       },
       "warning run folder: only 1.00 GiB are free"},
      {[](auto& f) { f[0].memory_free = 1 << 20; }, "warning memory: 1.00 MiB for a rank (least: rank 0 on q1"},
      {[](auto& f) { f[2].interfaces = {"lo 127.0.0.1"}; },
       "fault network: on q2 (rank 2): no interface but the loopback"},
      {[](auto& f) {
         for (auto& one : f) one.cores = 1;
       },
       "warning cores: q1 and 1 more host: 1 core for 2 ranks"},
      {[](auto& f) { f[0].gpu_problem = "this rank sees no GPU"; }, "fault GPU: on q1 (rank 0): this rank sees no GPU"},
      {[](auto& f) {
         for (auto& one : f) one.mpi = "Open MPI v4.1.0";
       },
       "warning versions: Open MPI 4.1.0: TCP connections get lost"},
      {[](auto& f) {
         for (auto& one : f) one.cuda_runtime = 13000;
       },
       "warning GPU: none is seen"},
  };
  for (const Case& one : cases) {
    std::vector<RankFacts> facts = healthy();
    one.change(facts);
    EXPECT_THAT(complaints(facts), ::testing::Contains(HasSubstr(one.text)));
  }
}

TEST(Findings, GpusAreComparedWithEachOther) {
  std::vector<RankFacts> facts = healthy();
  for (RankFacts& one : facts) {
    one.gpu = "NVIDIA H100";
    one.gpu_id = "GPU-" + std::to_string(one.rank);
    one.gpu_memory = one.gpu_memory_free = std::int64_t{80} << 30;
    one.cuda_runtime = one.cuda_driver = 13000;
    one.nccl_built = one.nccl_loaded = 22703;
    one.code_products = 1.2e15;
  }
  EXPECT_THAT(complaints(facts), ::testing::IsEmpty());
  facts[2].code_products = 1.0e15;
  facts[3].gpu_id = "GPU-0";
  facts[1].cuda_driver = 12040;
  facts[1].gpu_memory_free = std::int64_t{20} << 30;
  EXPECT_THAT(complaints(facts), ::testing::UnorderedElementsAre(
                                     HasSubstr("fault versions: on q1 (rank 1): the driver is made for CUDA 12.4"),
                                     HasSubstr("warning GPU: on q2 (rank 2): products on int8 codes are up to 13 %"),
                                     HasSubstr("fault GPU: ranks 0 and 3 have the same GPU"),
                                     HasSubstr("warning GPU: on q1 (rank 1): only 20.00 GiB of 80.00 GiB")));
}

TEST(Findings, ASlowLinkIsFound) {
  LinkFacts slow = links();
  slow.ring.push_back({.from = 4, .to = 5, .same_host = true, .bytes = 2e8});
  slow.ring.push_back({.from = 5, .to = 6, .same_host = true, .bytes = 1e9});
  EXPECT_THAT(complaints(healthy(), slow), ::testing::Contains(HasSubstr("warning links: rank 4 to 5: 200 MB/s")));
}

// Ranks that take turns are no slow ranks, and their links no slow links: one finding says why.
TEST(Findings, ACrowdedHostIsOneFinding) {
  std::vector<RankFacts> facts = healthy();
  facts[0].code_products = 30e9;
  facts[3].float_products = 10e9;
  LinkFacts slow = links();
  slow.ring[0].bytes = 2e8;
  slow.ring[1].bytes = 2e8;
  for (RankFacts& one : facts) one.load = one.host == "q1" ? 30.0 : 9.0;
  EXPECT_THAT(complaints(facts, slow),
              ::testing::ElementsAre(HasSubstr("warning cores: q1 and 1 more host: a load of 30.0 on 4 cores")));
  for (RankFacts& one : facts) one.load = 0.0, one.cores = 1;
  EXPECT_THAT(complaints(facts, slow),
              ::testing::ElementsAre(HasSubstr("warning cores: q1 and 1 more host: 1 core for 2 ranks")));
  facts = healthy();
  for (RankFacts& one : facts)
    if (one.host == "q1") one.load = 30.0;
  facts[3].float_products = 10e9;  // of the host where nothing else runs
  EXPECT_THAT(complaints(facts),
              ::testing::UnorderedElementsAre(HasSubstr("q1: a load of 30.0"),
                                              HasSubstr("on q2 (rank 3): products on values are up to 75 %")));
}

// One GPU has no others to be compared with, but the figures of its kind.
TEST(Findings, AGpuIsComparedWithItsKind) {
  std::vector<RankFacts> facts = {healthy()[0]};
  RankFacts& gpu = facts[0];
  gpu.local_size = 1;
  gpu.gpu = "NVIDIA H100", gpu.gpu_id = "GPU-0", gpu.gpu_memory = gpu.gpu_memory_free = std::int64_t{80} << 30;
  gpu.slurm_job.clear();
  gpu.known_code_products = 1.19e15, gpu.known_float_products = 7e14;
  gpu.code_products = 1.1e15, gpu.float_products = 6.8e14;
  EXPECT_THAT(complaints(facts), ::testing::IsEmpty());
  EXPECT_THAT(to_text(judge(facts, {}), facts), HasSubstr("1.10 Pop/s a rank, 92 % of what this GPU is known to"));
  gpu.code_products = 6e14;
  EXPECT_THAT(complaints(facts),
              ::testing::ElementsAre(HasSubstr("warning GPU: products on int8 codes: 600 Top/s a rank, 50 %")));

  LinkFacts slow = links();
  slow.known_node_bytes = 126e9;
  std::vector<RankFacts> two = healthy();
  EXPECT_THAT(complaints(two, slow),
              ::testing::ElementsAre(HasSubstr("exchange of gradients in a node (mpi): 2.00 GB/s "
                                               "a rank, 2 % of what")));
}

TEST(Findings, CpusThatWereAskedForNeedNoGpu) {
  std::vector<RankFacts> facts = healthy();
  for (RankFacts& one : facts) one.cuda_runtime = 13000, one.gpus_seen = -1;
  EXPECT_THAT(complaints(facts), ::testing::IsEmpty());
}

TEST(Findings, OneRankIsToldHowLinksAreMeasured) {
  std::vector<RankFacts> facts = {healthy()[0]};
  facts[0].local_size = 1;
  EXPECT_THAT(to_text(judge(facts, {}), facts), HasSubstr("not measured: one rank. `mpirun -np N"));
}

TEST(KnownBad, HasRangesOfReleases) {
  const auto count = [](const char* library, LibraryVersion version) { return known_bad(library, version).size(); };
  EXPECT_EQ(count("Open MPI", {3, 1, 6}), 1U);
  EXPECT_EQ(count("Open MPI", {4, 1, 0}), 2U);
  EXPECT_EQ(count("Open MPI", {4, 1, 1}), 1U);
  EXPECT_EQ(count("Open MPI", {4, 1, 2}), 0U);
  EXPECT_EQ(count("Open MPI", {4, 1, 6}), 0U);
  EXPECT_EQ(count("Open MPI", {5, 0, 1}), 1U);
  EXPECT_EQ(count("Open MPI", {5, 0, 7}), 0U);
  EXPECT_EQ(count("NCCL", {2, 28, 9}), 0U);
  EXPECT_EQ(count("NCCL", {2, 29, 7}), 1U);
  EXPECT_EQ(count("NCCL", {2, 10, 3}), 1U);
  EXPECT_EQ(count("MPICH", {4, 1, 0}), 0U);
}

TEST(KnownBad, ReadsVersionsAsLibrariesSayThem) {
  EXPECT_EQ(open_mpi_version("Open MPI v4.1.4"), (LibraryVersion{4, 1, 4}));
  EXPECT_EQ(open_mpi_version("Open MPI v5.0.0rc12"), (LibraryVersion{5, 0, 0}));
  EXPECT_EQ(open_mpi_version("MPICH Version:\t4.0.2"), std::nullopt);
  EXPECT_EQ(nccl_version(22809), (LibraryVersion{2, 28, 9}));
  EXPECT_EQ(nccl_version(2708), (LibraryVersion{2, 7, 8}));
  EXPECT_EQ(nccl_version(-1), std::nullopt);
}

TEST(Facts, TravelAsJson) {
  for (RankFacts one : healthy()) {
    one.clock_ahead_s = 0.1234567890123;
    const RankFacts back = facts_of(parse_json(to_json(to_value(one)), "facts"));
    EXPECT_EQ(to_json(to_value(back)), to_json(to_value(one)));
    EXPECT_EQ(back.clock_ahead_s, one.clock_ahead_s);
    EXPECT_EQ(back.interfaces, one.interfaces);
  }
}

}  // namespace
}  // namespace qat
