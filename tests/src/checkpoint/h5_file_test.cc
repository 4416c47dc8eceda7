#include "src/checkpoint/h5_file.h"

#include <bit>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "tests/src/checkpoint/checkpoint_fixture.h"

// HDF5 1.10 loses a few hundred bytes whenever it refuses a damaged file or cannot write; nothing of ours is in them.
// Read by LeakSanitizer when the tests are built with it. Identifiers that we forget are counted by h5_open_objects().
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace qat {
namespace {

using ::testing::AllOf;
using testing::checkpoint_error;
using testing::content;
using ::testing::ElementsAre;
using testing::flip_bit;
using ::testing::HasSubstr;
using testing::read_bytes;
using testing::write_bytes;

class H5FileTest : public testing::ScratchFolder {
 protected:
  std::filesystem::path file() const { return root_ / "file.h5"; }

  template <typename T>
  void expect_round_trip(const std::vector<Shape>& shapes) {
    H5File out = H5File::create(root_ / "round.h5");
    std::vector<std::vector<T>> written;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      std::vector<T> values(static_cast<std::size_t>(element_count(shapes[i])));
      for (std::size_t k = 0; k < values.size(); ++k) values[k] = static_cast<T>(k * 7 + i);
      out.write_dataset("/g/t" + std::to_string(i), shapes[i], view(values));
      written.push_back(std::move(values));
    }
    out.close();
    const H5File in = H5File::open(root_ / "round.h5");
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const std::string name = "g/t" + std::to_string(i);
      const TensorInfo info = in.dataset_info(name);
      EXPECT_EQ(info.shape, shapes[i]);
      EXPECT_EQ(info.dtype, dtype_of<T>());
      std::vector<T> found(written[i].size());
      in.read_dataset(name, shapes[i], view(found));
      EXPECT_EQ(found, written[i]) << describe(info.dtype, info.shape);
    }
    std::filesystem::remove(root_ / "round.h5");
  }
};

TEST_F(H5FileTest, EveryDTypeAndShapeComesBackUnchanged) {
  // Scalar, one element, empty on either side, primes, many axes, and larger than one chunk on the first or second
  // axis.
  const std::vector<Shape> shapes = {{},  {1},         {0},           {0, 5},       {5, 0},
                                     {7}, {3, 5, 7},   {257, 13},     {1, 1, 1, 1}, {2, 3, 1, 2, 5},
                                     {2}, {1'200'007}, {3, 1'500'001}};
  expect_round_trip<float>(shapes);
  expect_round_trip<double>(shapes);
  expect_round_trip<std::int8_t>(shapes);
  expect_round_trip<std::int32_t>(shapes);
  expect_round_trip<std::int64_t>(shapes);
  expect_round_trip<std::uint8_t>(shapes);
}

TEST_F(H5FileTest, FloatsKeepEveryBit) {
  std::vector<float> values;
  for (const std::uint32_t bits : {0x7FC12345U, 0xFFC00001U, 0x7F812345U, 0x80000000U, 0x00000001U, 0x807FFFFFU,
                                   0x7F800000U, 0xFF800000U, 0x7F7FFFFFU, 0x00800000U}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  H5File out = H5File::create(file());
  out.write_dataset("x", {10}, view(values));
  out.close();
  std::vector<float> found(10);
  H5File::open(file()).read_dataset("x", {10}, view(found));
  EXPECT_EQ(std::memcmp(found.data(), values.data(), sizeof(float) * values.size()), 0);
}

TEST_F(H5FileTest, AttributesComeBackUnchangedAndAreReplaced) {
  const std::string long_text(200'000, 'j');  // beyond the 64 kB that fit an object header
  const std::string odd_text("a\0b \xC3\xA9", 6);
  H5File out = H5File::create(file());
  out.write_dataset("/model/w", {2}, content(std::vector<float>{1, 2}));
  out.set_attribute("/model/w", "layout", std::string("in,out"));
  out.set_attribute("/state/deep", "n", std::numeric_limits<std::int64_t>::min());
  out.set_attribute("/state/deep", "x", -0.0);
  out.set_attribute("/state/deep", "x2", std::numeric_limits<double>::infinity());
  out.set_attribute("/state/deep", "empty", std::string());
  out.set_attribute("/state/deep", "long", long_text);
  out.set_attribute("/state/deep", "odd", odd_text);
  out.set_attribute("/", "version", std::string("first"));
  out.set_attribute("/", "version", std::int64_t{2});
  out.close();
  const H5File in = H5File::open(file());
  EXPECT_EQ(in.attribute("/model/w", "layout"), Attribute("in,out"));
  EXPECT_EQ(in.attribute("/state/deep", "n"), Attribute(std::numeric_limits<std::int64_t>::min()));
  EXPECT_TRUE(std::signbit(std::get<double>(in.attribute("/state/deep", "x"))));
  EXPECT_EQ(in.attribute("/state/deep", "x2"), Attribute(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(in.attribute("/state/deep", "empty"), Attribute(""));
  EXPECT_EQ(in.attribute("/state/deep", "long"), Attribute(long_text));
  EXPECT_EQ(in.attribute("/state/deep", "odd"), Attribute(odd_text));
  EXPECT_EQ(in.attribute("/", "version"), Attribute(std::int64_t{2}));
  EXPECT_FALSE(in.has_attribute("/", "layout"));
  EXPECT_FALSE(in.has_attribute("/nowhere/at/all", "x"));
  EXPECT_THAT(checkpoint_error([&] { (void)in.attribute("/state", "lr"); }),
              AllOf(HasSubstr("file.h5"), HasSubstr("'lr'"), HasSubstr("/state")));
}

TEST_F(H5FileTest, ListsTheDatasetsBelowAGroupSorted) {
  const std::vector<float> one = {1};
  H5File out = H5File::create(file());
  for (const char* name : {"/model/h.1.w", "/model/h.0.w", "/optimizer/exp_avg/h.0.w", "/top"}) {
    out.write_dataset(name, {1}, view(one));
  }
  for (int i = 0; i < 300; ++i) out.write_dataset("/many/" + std::to_string(1000 + i), {1}, view(one));
  out.close();
  const H5File in = H5File::open(file());
  EXPECT_THAT(in.list_datasets("/model"), ElementsAre("/model/h.0.w", "/model/h.1.w"));
  EXPECT_THAT(in.list_datasets("optimizer"), ElementsAre("/optimizer/exp_avg/h.0.w"));
  EXPECT_THAT(in.list_datasets("/nothing"), ElementsAre());
  EXPECT_EQ(in.list_datasets("/many").size(), 300U);
  EXPECT_EQ(in.list_datasets().size(), 304U);
  EXPECT_TRUE(in.has_dataset("top"));
  EXPECT_FALSE(in.has_dataset("/model"));
  EXPECT_FALSE(in.has_dataset("/model/h.2.w"));
}

TEST_F(H5FileTest, AWrongTypeShapeOrNameNamesFileTensorExpectedAndFound) {
  H5File out = H5File::create(file());
  out.write_dataset("/model/w", {2, 3}, content(std::vector<float>(6)));
  out.close();
  const H5File in = H5File::open(file());
  std::vector<float> floats(6);
  std::vector<std::int32_t> ints(6);
  EXPECT_THAT(checkpoint_error([&] {
                in.read_dataset("/model/w", {3, 2}, view(floats));
              }),
              AllOf(HasSubstr("file.h5"), HasSubstr("/model/w"), HasSubstr("expected float32 [3, 2]"),
                    HasSubstr("found float32 [2, 3]")));
  EXPECT_THAT(checkpoint_error([&] {
                in.read_dataset("/model/w", {2, 3}, view(ints));
              }),
              AllOf(HasSubstr("expected int32 [2, 3]"), HasSubstr("found float32 [2, 3]")));
  EXPECT_THAT(checkpoint_error([&] {
                in.read_dataset("/model/v", {2, 3}, view(floats));
              }),
              AllOf(HasSubstr("file.h5"), HasSubstr("no tensor /model/v")));
}

TEST_F(H5FileTest, MisuseIsAnInternalError) {
  H5File out = H5File::create(file());
  const std::vector<float> two = {1, 2};
  out.write_dataset("/a/x", {2}, view(two));
  for (const char* name : {"/a/x", "", "/", "/a//b", "/a/../b", "/b/"}) {
    EXPECT_THROW(out.write_dataset(name, {2}, view(two)), Error) << name;
  }
  EXPECT_THROW(out.write_dataset("/wrong_count", {3}, view(two)), Error);
  EXPECT_THROW(out.write_dataset("/bf16", {2}, ConstBufferView(two.data(), 2, DType::kBFloat16)), Error);
}

TEST_F(H5FileTest, EqualContentGivesEqualBytes) {
  for (const char* name : {"a.h5", "b.h5"}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's time stamps count seconds
    H5File out = H5File::create(root_ / name);
    out.write_dataset("/g/partial_last_chunk", {1'300'001}, content(std::vector<float>(1'300'001, 2.5F)));
    out.write_dataset("/g/s", {}, content(std::vector<float>{1}));
    out.set_attribute("/state", "x", 1.0);
    out.close();
  }
  EXPECT_EQ(read_bytes(root_ / "a.h5"), read_bytes(root_ / "b.h5"));
}

TEST_F(H5FileTest, AFileThatIsNotClosedIsNotReadable) {
  {
    H5File out = H5File::create(file());
    out.write_dataset("x", {1000}, content(std::vector<float>(1000)));
  }
  EXPECT_THAT(checkpoint_error([&] { (void)H5File::open(file()); }), HasSubstr("file.h5"));
}

TEST_F(H5FileTest, CreateNeverOverwrites) {
  write_bytes(file(), "precious");
  EXPECT_THAT(checkpoint_error([&] { (void)H5File::create(file()); }), HasSubstr("file.h5"));
  EXPECT_EQ(read_bytes(file()), "precious");
}

// A single flipped bit anywhere is either caught by HDF5's own checksums or changes nothing that a reader sees.
TEST_F(H5FileTest, ChecksumsCatchAFlippedBitInEveryByte) {
  std::vector<float> values(64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.5F;
  H5File out = H5File::create(file());
  out.write_dataset("/g/x", {8, 8}, view(values));
  out.write_dataset("/g/s", {}, content(std::vector<std::int64_t>{42}));
  out.set_attribute("/state", "text", std::string("config"));
  out.close();
  const std::string good = read_bytes(file());
  ASSERT_LT(good.size(), 20'000U);
  std::vector<float> sound(64);
  H5File::open(file()).read_dataset("/g/x", {8, 8}, view(sound));  // an undamaged file raises nothing
  EXPECT_EQ(sound, values);
  std::size_t caught = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    flip_bit(file(), at, static_cast<int>(at % 8));
    try {
      const H5File in = H5File::open(file());
      std::vector<float> found(64);
      std::vector<std::int64_t> scalar(1);
      in.read_dataset("/g/x", {8, 8}, view(found));
      in.read_dataset("/g/s", {}, view(scalar));
      EXPECT_EQ(found, values) << "byte " << at;
      EXPECT_EQ(scalar[0], 42) << "byte " << at;
      EXPECT_EQ(in.attribute("/state", "text"), Attribute("config")) << "byte " << at;
      EXPECT_EQ(in.list_datasets().size(), 2U) << "byte " << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
      ++caught;
    }
    flip_bit(file(), at, static_cast<int>(at % 8));
  }
  EXPECT_EQ(read_bytes(file()), good);
  EXPECT_GT(caught, sizeof(float) * values.size());  // at the very least every byte of the data
}

TEST_F(H5FileTest, ATruncatedFileIsRefusedAtEveryLength) {
  H5File out = H5File::create(file());
  out.write_dataset("/g/x", {64}, content(std::vector<float>(64, 1.0F)));
  out.close();
  for (std::uintmax_t length = std::filesystem::file_size(file()); length-- > 0;) {
    std::filesystem::resize_file(file(), length);
    EXPECT_THROW((void)H5File::open(file()), Error) << length;
  }
}

}  // namespace
}  // namespace qat
