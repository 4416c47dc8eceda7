// Every rank writes and reads what it owns: any number of ranks loads what any number has saved, and the failure of one
// is everybody's.
#include <sched.h>
#include <sys/mount.h>

#include <atomic>

#include "src/checkpoint/durable_file.h"
#include "src/checkpoint/retention.h"
#include "src/checkpoint/shared_folder.h"
#include "tests/src/checkpoint/sharded_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using testing::content;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::load_spread;
using testing::save_small;
using testing::save_spread;
using testing::Spread;
using testing::SpreadTensor;
using testing::steps_of;
using testing::write_bytes;

class Sharded : public testing::ScratchFolder {
 protected:
  // As programs wrote it before ranks had files: every tensor whole in checkpoint.h5, manifest version 1.
  fs::path save_format_1(std::int64_t step, const Spread& spread) const {
    const fs::path folder = root_ / step_folder_name(step);
    fs::create_directories(folder);
    const std::vector<float> flat = spread.values();
    H5File out = H5File::create(folder / kCheckpointFileName);
    out.set_attribute("/", "format", std::string("qat_dist checkpoint"));
    out.set_attribute("/", "step", step);
    for (const SpreadTensor& tensor : spread.tensors())
      out.write_dataset(tensor.name, tensor.shape, {flat.data() + tensor.offset, tensor.elems(), DType::kFloat32});
    out.close();
    std::string manifest = to_json(
        {step, {{kCheckpointFileName, static_cast<std::int64_t>(fs::file_size(out.path())), hash_file(out.path())}}});
    write_bytes(folder / kManifestName, manifest.replace(manifest.find("\"version\": 2"), 12, "\"version\": 1"));
    return folder;
  }
  static std::vector<std::string> files_of(const fs::path& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  // With the sizes and hashes that its files have now.
  static void renew_manifest(const fs::path& folder) {
    Manifest manifest = parse_manifest(testing::read_bytes(folder / kManifestName), folder);
    for (ManifestFile& file : manifest.files) {
      file.bytes = static_cast<std::int64_t>(fs::file_size(folder / file.name));
      file.xxh3 = hash_file(folder / file.name);
    }
    write_bytes(folder / kManifestName, to_json(manifest));
  }
};

TEST_F(Sharded, WhatAnyNumberOfRanksHasSavedAnyNumberLoads) {
  for (const std::int64_t buckets : {1, 3}) {
    const Spread spread = Spread::usual(buckets);
    const std::vector<float> expected = spread.values();
    for (const int saving : {1, 2, 3, 4, 6, 8}) {
      const fs::path folder = save_spread(root_, 100 * buckets + saving, spread, saving);
      // All with all; how the elements are cut into buckets changes only where the pieces begin.
      for (const int loading : buckets == 1 ? std::vector{1, 2, 3, 4, 6, 8} : std::vector{1, 3, 8})
        EXPECT_TRUE(load_spread(folder, spread, loading) == expected)
            << saving << " ranks saved, " << loading << " load, " << buckets << " buckets";
    }
  }
}

TEST_F(Sharded, EachRankHasAFileAndOneWithoutElementsHasNone) {
  EXPECT_THAT(files_of(save_spread(root_, 1, Spread::usual(1), 3)),
              ElementsAre("checkpoint.h5", "manifest.json", "rank_00000.h5", "rank_00001.h5", "rank_00002.h5"));
  const Spread tiny({{"/model/transformer.wte.weight", {2, 1}}}, 1);
  const fs::path folder = save_spread(root_, 2, tiny, 4);
  EXPECT_THAT(files_of(folder), ElementsAre("checkpoint.h5", "manifest.json", "rank_00001.h5", "rank_00003.h5"));
  EXPECT_EQ(load_spread(folder, tiny, 3), tiny.values());
  EXPECT_THAT(leftovers(root_), IsEmpty());
}

// As h5py and h5ls see it: checkpoint.h5 alone, through HDF5.
TEST_F(Sharded, CheckpointH5ShowsEveryTensorWholeUnderItsName) {
  const Spread spread = Spread::usual(2);
  const fs::path saved = save_spread(root_, 1, spread, 6);
  const fs::path folder = root_ / "moved";
  fs::rename(saved, folder);
  const H5File file = H5File::open(folder / kCheckpointFileName);
  const std::vector<float> flat = spread.values();
  for (const SpreadTensor& tensor : spread.tensors()) {
    std::vector<float> found(static_cast<std::size_t>(tensor.elems()));
    EXPECT_EQ(file.dataset_info(tensor.name).shape, tensor.shape);
    file.read_dataset(tensor.name, tensor.shape, view(found));
    EXPECT_TRUE(std::equal(found.begin(), found.end(), flat.begin() + tensor.offset)) << tensor.name;
  }
  EXPECT_EQ(file.attribute("/model/transformer.wte.weight", "layout"), Attribute("vocab,embd"));
  EXPECT_EQ(file.attribute("/state", "ranks"), Attribute(std::int64_t{6}));
}

TEST_F(Sharded, AnyRangeOfElementsIsReadFromBothFormats) {
  const Spread spread = Spread::usual(3);
  for (const fs::path& folder : {save_spread(root_, 1, spread, 4), save_format_1(2, spread)}) {
    const CheckpointReader reader = CheckpointReader::open(folder);
    for (const SpreadTensor& tensor : spread.tensors()) {
      const std::int64_t stride = std::max<std::int64_t>(1, tensor.elems() / 7);
      for (std::int64_t first = 0; first <= tensor.elems(); first += stride) {
        for (std::int64_t end = first; end <= tensor.elems(); end += stride) {
          std::vector<float> found(static_cast<std::size_t>(end - first), -1.0F);
          reader.read_elements(tensor.name, tensor.shape, first, view(found));
          bool equal = true;
          for (std::int64_t i = first; i < end; ++i)
            equal &= found[static_cast<std::size_t>(i - first)] == Spread::value(tensor.offset + i);
          EXPECT_TRUE(equal) << tensor.name << " " << first << " to " << end;
        }
      }
    }
    std::vector<float> two(2);
    EXPECT_THAT(checkpoint_error([&] {
                  reader.read_elements("/model/a.weight", {7, 5, 3}, 0, view(two));
                }),
                AllOf(HasSubstr("expected float32 [7, 5, 3]"), HasSubstr("found float32 [5, 7, 3]")));
  }
}

TEST_F(Sharded, FormatOneLoadsOnAnyNumberOfRanks) {
  const Spread spread = Spread::usual(2);
  const fs::path folder = save_format_1(7, spread);
  for (const int ranks : {1, 2, 3, 8}) EXPECT_TRUE(load_spread(folder, spread, ranks) == spread.values()) << ranks;
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(7));
}

TEST_F(Sharded, WhatALaterProgramAddsIsNoObstacle) {
  const Spread spread = Spread::usual(1);
  const std::vector<float> flat = spread.values();
  const auto comm = dist::make_single_comm();
  const auto rest = [](CheckpointWriter& writer) {
    writer.write_tensor("/later/table", {2}, content(std::vector<std::int64_t>{1, 2}));
    writer.set_attribute("/state", "later", 1.5);
    writer.set_attribute("/", "later", std::string("text"));
  };
  ShardedSave save(root_, 1, spread.pieces(0, 1, flat), rest, *comm);
  write_bytes(root_ / (".tmp-step_00000001-" + std::to_string(::getpid())) / "notes.txt", "not in the manifest");
  save.write();
  EXPECT_TRUE(load_spread(save.finish(), spread, 2) == flat);
}

TEST_F(Sharded, AMissingATruncatedAndADamagedShardAreFound) {
  const fs::path folder = save_spread(root_, 1, Spread::usual(1), 3);
  const fs::path file = folder / "rank_00001.h5";
  const std::string good = testing::read_bytes(file);
  const auto why = [&] { return checkpoint_error([&] { (void)CheckpointReader::open(folder); }); };
  fs::remove(file);
  EXPECT_THAT(why(), AllOf(HasSubstr("rank_00001.h5"), HasSubstr("missing")));
  write_bytes(file, good.substr(0, good.size() - 7));
  EXPECT_THAT(why(), AllOf(HasSubstr("rank_00001.h5"), HasSubstr("bytes, found")));
  EXPECT_THAT(list_checkpoints(root_), IsEmpty());  // both are seen without hashing
  write_bytes(file, good);
  testing::flip_bit(file, good.size() / 2, 5);
  EXPECT_THAT(why(), AllOf(HasSubstr("rank_00001.h5"), HasSubstr("damaged: XXH3")));
}

TEST_F(Sharded, AFlippedBitIsFoundByTheRankThatReadsItToo) {
  const Spread spread = Spread::usual(1);
  const fs::path folder = save_spread(root_, 1, spread, 2);
  testing::flip_bit(folder / "rank_00001.h5", fs::file_size(folder / "rank_00001.h5") / 2, 5);
  renew_manifest(folder);
  EXPECT_THAT(checkpoint_error([&] { (void)load_spread(folder, spread, 4); }), HasSubstr("rank_00001.h5"));
}

TEST_F(Sharded, AShardOfAnotherStepOrThatIsNotListedIsRefused) {
  const fs::path one = save_spread(root_, 1, Spread::usual(1), 2), two = save_spread(root_, 2, Spread::usual(1), 2);
  fs::copy_file(one / "rank_00001.h5", two / "rank_00001.h5", fs::copy_options::overwrite_existing);
  renew_manifest(two);
  EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(two); }),
              HasSubstr("rank_00001.h5 is of step 1, manifest.json of step 2"));
  Manifest manifest = read_manifest(one, /*hash=*/true);
  std::erase_if(manifest.files, [](const ManifestFile& file) { return file.name == "rank_00001.h5"; });
  write_bytes(one / kManifestName, to_json(manifest));
  const CheckpointReader reader = CheckpointReader::open(one);
  EXPECT_THAT(checkpoint_error([&] { (void)reader.read_tensor<float>("/optimizer/exp_avg/large"); }),
              AllOf(HasSubstr("rank_00001.h5"), HasSubstr("does not list")));
}

TEST_F(Sharded, TheFailureOfOneRankIsEverybodysAndLeavesNothing) {
  const Spread spread = Spread::usual(1);
  save_spread(root_, 1, spread, 4);
  std::atomic<int> agreed = 0;
  const std::vector<float> flat = spread.values();
  dist::run_local_ranks(4, [&](dist::Communicator& comm) {
    try {
      ShardedSave save(
          root_, 2, spread.pieces(comm.rank(), 4, flat), [](CheckpointWriter&) {}, comm);
      if (comm.rank() == 2)  // where its file was to be
        fs::create_directories(root_ / scratch_folder_name(kTemporaryPrefix, 2) / "rank_00002.h5");
      save.write();
      save.finish();
      ADD_FAILURE() << "saved";
    } catch (const dist::AgreedError& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      EXPECT_THAT(error.what(),
                  AllOf(HasSubstr("rank 2 only: cannot save the checkpoint of step 2 in " + root_.string()),
                        HasSubstr("rank_00002.h5"), HasSubstr("Earlier checkpoints are untouched")));
      ++agreed;
    }
  });
  EXPECT_EQ(agreed, 4);
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(1));
  EXPECT_TRUE(load_spread(save_spread(root_, 2, spread, 4), spread, 4) == flat);
}

TEST_F(Sharded, AShardThatRankZeroDoesNotSeeIsNoCheckpoint) {
  const Spread spread = Spread::usual(1);
  const std::vector<float> flat = spread.values();
  std::atomic<int> agreed = 0;
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    ShardedSave save(
        root_, 1, spread.pieces(comm.rank(), 2, flat), [](CheckpointWriter&) {}, comm);
    save.write();
    if (comm.rank() == 1) fs::remove(root_ / scratch_folder_name(kTemporaryPrefix, 1) / "rank_00001.h5");
    try {
      save.finish();
    } catch (const dist::AgreedError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("rank_00001.h5: a rank has written"), HasSubstr("rank 0 sees")));
      ++agreed;
    }
  });
  EXPECT_EQ(agreed, 2);
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_THAT(list_checkpoints(root_), IsEmpty());
}

TEST_F(Sharded, ElementsThatNoRankOwnsOrTwoDoAreAnInternalError) {
  const std::vector<float> flat(8);
  const auto piece = [&](std::int64_t first, std::int64_t elems) {
    return TensorPiece{"/model/w", {4, 2}, first, {flat.data(), elems, DType::kFloat32}};
  };
  const auto why = [](const std::vector<TensorPiece>& a, const std::vector<TensorPiece>& b) -> std::string {
    try {
      (void)assemble_pieces({list_pieces(a), list_pieces(b)});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(why({piece(0, 3), piece(7, 1)}, {piece(3, 4)}), "");
  EXPECT_THAT(why({piece(0, 3)}, {piece(4, 4)}), HasSubstr("element 3 of /model/w"));
  EXPECT_THAT(why({piece(0, 5)}, {piece(4, 4)}), HasSubstr("element 4 of /model/w"));
  EXPECT_THAT(why({piece(0, 4)}, {piece(4, 3)}), HasSubstr("element 7 of /model/w is no rank's"));
  TensorPiece other = piece(4, 4);
  other.shape = {2, 4};
  EXPECT_THAT(why({piece(0, 4)}, {other}), HasSubstr("float32 [2, 4] on rank 1"));
}

TEST_F(Sharded, AnOpenReaderKeepsAllFilesOfAFolderThatIsRemoved) {
  const Spread spread = Spread::usual(1);
  save_spread(root_, 1, spread, 4);
  save_spread(root_, 2, spread, 4);
  const CheckpointReader reader = CheckpointReader::open(root_ / step_folder_name(1));
  apply_retention(root_, /*keep=*/1, {});
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(2));
  const std::vector<float> flat = spread.values();
  for (const SpreadTensor& tensor : spread.tensors()) {
    const auto found = reader.read_tensor<float>(tensor.name);
    EXPECT_TRUE(std::equal(found.begin(), found.end(), flat.begin() + tensor.offset)) << tensor.name;
  }
}

// A thread with a mount table of its own stands for a node that has another file system at that path.
TEST_F(Sharded, ARankThatDoesNotSeeTheFolderIsNamedWithItsHost) {
  const std::vector<std::string> hosts = {"here", "here", "there"};
  bool allowed = true;
  std::atomic<int> agreed = 0;
  dist::run_local_ranks(3, [&](dist::Communicator& comm) {
    if (comm.rank() == 2)
      allowed = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                ::mount("tmpfs", root_.c_str(), "tmpfs", 0, "size=1m") == 0;
    try {
      require_shared_folder(root_, "run.dir", hosts, comm, std::chrono::milliseconds(200));
    } catch (const dist::AgreedError& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 2 only: run.dir: there does not see the folder"),
                                      HasSubstr(root_.string() + " of here"), HasSubstr("that all nodes share")));
      ++agreed;
    }
  });
  if (!allowed) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  EXPECT_EQ(agreed, 3);
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(Sharded, AFolderThatAllRanksSeeIsSharedAndIsLeftAsItWas) {
  dist::run_local_ranks(3, [&](dist::Communicator& comm) { require_shared_folder(root_, "run.dir", {}, comm); });
  EXPECT_TRUE(fs::is_empty(root_));
}

}  // namespace
}  // namespace qat
