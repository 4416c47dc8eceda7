// Writer, reader and training state together: what was saved is what is loaded, and damage is found.
#include <cstring>
#include <random>

#include "src/checkpoint/manifest.h"
#include "src/checkpoint/train_state.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using testing::content;
using ::testing::ElementsAre;
using testing::expect_small;
using testing::flip_bit;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::read_bytes;
using testing::save_small;
using testing::write_bytes;

class Checkpoint : public testing::ScratchFolder {};

TEST_F(Checkpoint, TensorsAndAttributesComeBackByName) {
  const CheckpointInfo saved = save_small(root_ / "run" / "checkpoints", 200, 7);
  EXPECT_EQ(saved.folder, root_ / "run" / "checkpoints" / "step_00000200");
  EXPECT_EQ(saved.step, 200);
  EXPECT_THAT(leftovers(root_ / "run" / "checkpoints"), IsEmpty());
  const CheckpointReader reader = CheckpointReader::open(saved.folder);
  EXPECT_EQ(reader.info().step, 200);
  EXPECT_EQ(reader.info().bytes, static_cast<std::int64_t>(fs::file_size(saved.folder / kCheckpointFileName) +
                                                           fs::file_size(saved.folder / "rank_00000.h5")));
  expect_small(reader, 7);
  EXPECT_THAT(reader.tensor_names(),
              ElementsAre("/model/transformer.wte.weight", "/optimizer/step/transformer.wte.weight"));
  EXPECT_EQ(reader.tensor_info("/model/transformer.wte.weight").shape, (Shape{16, 8}));
  EXPECT_EQ(reader.attribute<std::string>("/model/transformer.wte.weight", "layout"), "vocab,embd");
  EXPECT_THAT(checkpoint_error([&] { (void)reader.read_tensor<std::uint8_t>("/model/transformer.wte.weight"); }),
              AllOf(HasSubstr("expected uint8 [16, 8]"), HasSubstr("found float32 [16, 8]")));
  EXPECT_THAT(checkpoint_error([&] { (void)reader.attribute<double>("/state", "value"); }), HasSubstr("another type"));
}

TEST_F(Checkpoint, WithoutCommitNothingRemains) {
  {
    CheckpointWriter writer = CheckpointWriter::begin(root_, 1);
    writer.write_tensor("/model/w", {100}, content(std::vector<float>(100)));
    const CheckpointWriter moved = std::move(writer);
    EXPECT_EQ(leftovers(root_).size(), 1U);
  }
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_THAT(list_checkpoints(root_), IsEmpty());
}

TEST_F(Checkpoint, TheSameStepIsReplaced) {
  save_small(root_, 5, 1);
  save_small(root_, 5, 2);
  EXPECT_THAT(testing::steps_of(list_checkpoints(root_)), ElementsAre(5));
  EXPECT_THAT(leftovers(root_), IsEmpty());
  expect_small(CheckpointReader::open(root_ / "step_00000005"), 2);
}

TEST_F(Checkpoint, SpaceIsAskedForBeforeAnythingIsWritten) {
  const std::string message = checkpoint_error([&] { (void)CheckpointWriter::begin(root_, 3, std::int64_t{1} << 60); });
  EXPECT_THAT(message, AllOf(HasSubstr(root_.string()), HasSubstr("1152921504606846976 more bytes needed")));
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(Checkpoint, ARootThatCannotBeMadeIsNamed) {
  write_bytes(root_ / "file", "x");
  EXPECT_THAT(checkpoint_error([&] { (void)CheckpointWriter::begin(root_ / "file" / "checkpoints", 1); }),
              HasSubstr((root_ / "file" / "checkpoints").string()));
}

// Every eleventh byte: HDF5's own checksums are tried on all of them (h5_file_test.cc), the hash sees no difference.
TEST_F(Checkpoint, AFlippedBitInADataFileIsFoundByTheHash) {
  const fs::path folder = save_small(root_, 1, 3).folder;
  for (const char* name : {kCheckpointFileName, "rank_00000.h5"}) {
    const fs::path file = folder / name;
    const std::string good = read_bytes(file);
    for (std::size_t at = 0; at < good.size(); at += 41) {
      flip_bit(file, at, static_cast<int>(at % 8));
      EXPECT_THROW((void)CheckpointReader::open(folder), Error) << name << ", byte " << at;
      flip_bit(file, at, static_cast<int>(at % 8));
    }
    EXPECT_NO_THROW((void)CheckpointReader::open(folder));
    write_bytes(file, good.substr(0, good.size() - 1));
    EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(folder, {.verify_hash = false}); }),
                AllOf(HasSubstr(file.string()), HasSubstr("expected " + std::to_string(good.size()) + " bytes, found " +
                                                          std::to_string(good.size() - 1))));
    fs::remove(file);
    EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(folder); }),
                AllOf(HasSubstr(file.string()), HasSubstr("missing")));
    write_bytes(file, good);
  }
}

TEST_F(Checkpoint, AFlippedBitInTheManifestIsFoundOrHarmless) {
  const CheckpointInfo saved = save_small(root_, 1, 3);
  const fs::path file = saved.folder / kManifestName;
  const std::string good = read_bytes(file);
  for (std::size_t at = 0; at < good.size(); at += 3) {
    for (int bit = 0; bit < 8; ++bit) {
      flip_bit(file, at, bit);
      const std::string bad = read_bytes(file);
      try {
        const CheckpointReader reader = CheckpointReader::open(saved.folder);
        EXPECT_EQ(reader.info().step, saved.step) << bad;
        EXPECT_EQ(reader.info().bytes, saved.bytes) << bad;
        EXPECT_EQ(parse_manifest(bad, file), parse_manifest(good, file)) << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
      }
      flip_bit(file, at, bit);
    }
  }
}

TEST_F(Checkpoint, AFolderWithoutManifestIsNotACheckpoint) {
  const fs::path folder = save_small(root_, 1, 3).folder;
  save_small(root_, 2, 4);
  fs::remove(folder / kManifestName);
  EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(folder); }),
              AllOf(HasSubstr(folder.string()), HasSubstr("no manifest.json"), HasSubstr("step_00000002")));
  EXPECT_THAT(testing::steps_of(list_checkpoints(root_)), ElementsAre(2));
}

TEST_F(Checkpoint, AManifestOfAnotherStepIsNoticed) {
  const fs::path one = save_small(root_, 1, 3).folder;
  const fs::path two = save_small(root_, 2, 3).folder;
  fs::remove(two / kManifestName);
  Manifest manifest = read_manifest(one, /*hash=*/true);
  manifest.step = 2;
  write_bytes(one / kManifestName, to_json(manifest));
  EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(one); }), HasSubstr("is of step 1"));
}

TrainState some_state() {
  TrainState state;
  state.step = 200;
  state.seed = 0xFFFFFFFFFFFFFFFFULL;
  state.config_hash = 0x8000000000000001ULL;
  state.config_json = "{\"a\": \"\xC3\xA9\"}\n";
  state.world_size = 4;
  state.consumed_samples = 6400;
  state.consumed_tokens = 6400 * 1024;
  state.skips_in_row = 1;
  state.skips_total = 3;
  state.bitops = 1.25e21;
  state.bitops_at_full = 3.0000000000000004e22;
  state.data_json = std::string(200'000, 'x') + "\xC3\xA9";  // more than an attribute holds
  return state;
}

TEST_F(Checkpoint, TheTrainingStateComesBackEqual) {
  for (const TrainState& state : {some_state(), TrainState{}}) {
    CheckpointWriter writer = CheckpointWriter::begin(root_, state.step);
    save_train_state(writer, state);
    EXPECT_EQ(load_train_state(CheckpointReader::open(writer.commit().folder)), state);
  }
}

TEST_F(Checkpoint, ATrainingStateFromBeforeTokensWereListedLoadsWithoutThem) {
  TrainState old = some_state();
  old.data_json.clear();
  CheckpointWriter writer = CheckpointWriter::begin(root_, old.step);
  save_train_state(writer, old);
  const CheckpointReader reader = CheckpointReader::open(writer.commit().folder);
  EXPECT_FALSE(reader.has_tensor("/state/data"));  // as in the files of such programs
  EXPECT_EQ(load_train_state(reader), old);
}

TEST_F(Checkpoint, ATrainingStateOfANewerVersionOrWithoutAFieldIsRefused) {
  CheckpointWriter newer = CheckpointWriter::begin(root_, 200);
  save_train_state(newer, some_state());
  newer.set_attribute("/state", "version", kTrainStateVersion + 1);
  const fs::path folder = newer.commit().folder;
  EXPECT_THAT(checkpoint_error([&] { (void)load_train_state(CheckpointReader::open(folder)); }),
              AllOf(HasSubstr(folder.string()), HasSubstr("version 3"), HasSubstr("a newer one")));
  CheckpointWriter partial = CheckpointWriter::begin(root_, 201);
  partial.set_attribute("/state", "version", kTrainStateVersion);
  const fs::path lacking = partial.commit().folder;
  EXPECT_THAT(checkpoint_error([&] { (void)load_train_state(CheckpointReader::open(lacking)); }),
              AllOf(HasSubstr("no attribute 'step'"), HasSubstr(lacking.string())));
}

TEST_F(Checkpoint, ATrainingStateOfAnotherStepIsNotSaved) {
  CheckpointWriter writer = CheckpointWriter::begin(root_, 199);
  EXPECT_THROW(save_train_state(writer, some_state()), Error);
}

class ManifestText : public testing::ScratchFolder {
 protected:
  static std::string error_of(const std::string& text) {
    return checkpoint_error([&] { (void)parse_manifest(text, "folder/manifest.json"); });
  }
  static Manifest example() { return {300, {{"checkpoint.h5", 1234, 0xFEDCBA9876543210ULL}, {"rank_1.h5", 0, 1}}}; }
};

TEST_F(ManifestText, ComesBackEqual) {
  EXPECT_EQ(parse_manifest(to_json(example()), "m"), example());
  EXPECT_EQ(example().bytes(), 1234);
}

TEST_F(ManifestText, OfVersionOneAndWithKeysOfALaterProgramIsRead) {
  std::string text = to_json(example());
  EXPECT_EQ(parse_manifest(text.replace(text.find("\"version\": 2"), 12, "\"version\": 1"), "m"), example());
  text = to_json(example());
  text.insert(text.find("\"step\""), R"("later": {"name": [1]}, )");
  text.insert(text.find("\"xxh3\""), R"("sha256": "00", )");
  EXPECT_EQ(parse_manifest(text, "m"), example());
}

TEST_F(ManifestText, SaysWhatIsWrong) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string text = to_json(example());
    EXPECT_NE(text.find(from), std::string::npos) << from;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const char* version : {"0", "3"})
    EXPECT_THAT(error_of(with("\"version\": 2", std::string("\"version\": ") + version)),
                AllOf(HasSubstr(std::string("version ") + version), HasSubstr("versions 1 to 2")));
  for (const char* key : {"step", "files", "name", "bytes", "xxh3"})
    EXPECT_THAT(error_of(with("\"" + std::string(key) + "\"", "\"other\"")),
                HasSubstr("expected an object with \"" + std::string(key) + "\""));
  EXPECT_THAT(error_of(with("300", "-1")), HasSubstr("\"step\""));
  EXPECT_THAT(error_of(with("300", "3.5")), HasSubstr("\"step\""));
  EXPECT_THAT(error_of(with("300", "9223372036854775808")), HasSubstr("\"step\""));
  EXPECT_THAT(error_of(with("rank_1.h5", "../rank_1.h5")), HasSubstr("\"name\""));
  EXPECT_THAT(error_of(with("rank_1.h5", "a/b")), HasSubstr("\"name\""));
  EXPECT_THAT(error_of(with("checkpoint.h5", "other.h5")), HasSubstr("lacks checkpoint.h5"));
  EXPECT_THAT(error_of(with("fedcba9876543210", "fedcba987654321")), HasSubstr("\"xxh3\""));
  EXPECT_THAT(error_of(with("fedcba9876543210", "fedcba98765432-1")), HasSubstr("\"xxh3\""));
  EXPECT_THAT(error_of(with("\"bytes\": 0", "\"bytes\": 9223372036854775807")), HasSubstr("\"bytes\""));
  EXPECT_THAT(error_of(with("qat_dist checkpoint", "other")), HasSubstr("not a manifest"));
  EXPECT_THAT(error_of("[]"), HasSubstr("not a manifest"));
  EXPECT_THAT(error_of(""), HasSubstr("not JSON"));
}

TEST_F(ManifestText, NoGarbageCrashesTheParser) {
  const std::string good = to_json(example());
  for (std::size_t length = 0; length + 1 < good.size(); ++length) {  // the last character is a newline
    EXPECT_THROW((void)parse_manifest(good.substr(0, length), "m"), Error) << length;
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string text = good;
    for (std::size_t n = random() % 4 + 1; n > 0; --n) {
      const std::size_t at = random() % text.size();
      if (random() % 3 == 0)
        text.insert(at, 1, "{}[],:\"0e-\\"[random() % 11]);
      else if (random() % 2 == 0)
        text.erase(at, random() % 8 + 1);
      else
        text[at] = static_cast<char>(random());
      if (text.empty()) text.push_back('{');
    }
    try {
      (void)parse_manifest(text, "m");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
    }
  }
  EXPECT_THROW((void)parse_manifest(std::string(1 << 20, '['), "m"), Error);
}

TEST_F(ManifestText, AnOversizedManifestIsNotReadIntoMemory) {
  const fs::path folder = save_small(root_, 1, 3).folder;
  write_bytes(folder / kManifestName, std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(checkpoint_error([&] { (void)CheckpointReader::open(folder); }), HasSubstr("larger than"));
}

}  // namespace
}  // namespace qat
