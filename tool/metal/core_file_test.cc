#include "tool/metal/core_file.h"

#include <elf.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include "tool/metal/dump.h"

namespace perdure::tool::metal {
namespace {

class CoreFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "perdure-core-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    // Two pages of memory with something in them, far apart.
    image_.assign(std::size_t{3} << 20, 0);
    std::memcpy(&image_[0x1000], "low", 3);
    std::memcpy(&image_[0x200000], "high", 4);
    std::ofstream(directory_ / "image", std::ios::binary)
        .write(image_.data(), static_cast<std::streamsize>(image_.size()));
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string read(const char* name) const {
    std::ifstream in(directory_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  std::filesystem::path directory_;
  std::string image_;
};

template <class T>
T at(const std::string& file, u64 offset) {
  T value;
  EXPECT_LE(offset + sizeof value, file.size());
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

TEST_F(CoreFileTest, RangesAndNotesAreWhereTheHeadersSay) {
  CoreFile core;
  core.jump = {.version = 1, .hop = 4, .boot_info = 0x5000};
  core.units.push_back({.base = 0xfed90000, .bytes = {'a', 'b', 'c'}});
  core.ram = {{0, 0xA0000}, {0x100000, 0x200000}};
  const auto written = write_core(directory_ / "core", core, directory_ / "image");
  ASSERT_TRUE(written) << written.error();

  const std::string file = read("core");
  const auto header = at<Elf64_Ehdr>(file, 0);
  EXPECT_EQ(std::memcmp(header.e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(header.e_type, ET_CORE);
  EXPECT_EQ(header.e_machine, EM_X86_64);
  ASSERT_EQ(header.e_phnum, 3);
  const auto segment = [&](unsigned i) { return at<Elf64_Phdr>(file, header.e_phoff + i * sizeof(Elf64_Phdr)); };
  for (unsigned i : {1U, 2U}) {
    const Elf64_Phdr load = segment(i);
    EXPECT_EQ(load.p_type, PT_LOAD);
    EXPECT_EQ(load.p_paddr, core.ram[i - 1].base);
    EXPECT_EQ(load.p_filesz, core.ram[i - 1].length);
    EXPECT_EQ(load.p_offset % kPageSize, 0U);
    ASSERT_LE(load.p_offset + load.p_filesz, file.size());
    EXPECT_EQ(file.compare(load.p_offset, load.p_filesz, image_, load.p_paddr, load.p_filesz), 0);
  }
  const Elf64_Phdr notes = segment(0);
  ASSERT_EQ(notes.p_type, PT_NOTE);
  const auto first = at<Elf64_Nhdr>(file, notes.p_offset);
  EXPECT_EQ(first.n_type, kJumpNote);
  ASSERT_EQ(first.n_namesz, 8U);
  EXPECT_STREQ(file.data() + notes.p_offset + sizeof first, "Perdure");
  const auto jump = at<JumpNote>(file, notes.p_offset + sizeof first + 8);
  EXPECT_EQ(jump.hop, 4U);
  EXPECT_EQ(jump.boot_info, 0x5000U);
  const u64 next = notes.p_offset + sizeof first + 8 + first.n_descsz;
  const auto second = at<Elf64_Nhdr>(file, next);
  EXPECT_EQ(second.n_type, kUnitNote);
  const auto unit = at<UnitNote>(file, next + sizeof second + 8);
  EXPECT_EQ(unit.base, 0xfed90000U);
  EXPECT_EQ(unit.length, 3U);
  EXPECT_EQ(file.substr(next + sizeof second + 8 + sizeof unit, 3), "abc");
  EXPECT_EQ(notes.p_filesz % 4, 0U) << "padded";
}

TEST_F(CoreFileTest, WhatIsZeroTakesNoRoom) {
  const auto written = write_raw(directory_ / "raw", directory_ / "image");
  ASSERT_TRUE(written) << written.error();
  EXPECT_EQ(read("raw"), image_);
  struct stat status{};
  ASSERT_EQ(stat((directory_ / "raw").c_str(), &status), 0);
  EXPECT_LT(static_cast<u64>(status.st_blocks) * 512, image_.size() / 2);
}

TEST_F(CoreFileTest, MemoryThatIsNotThereLeavesNoFile) {
  CoreFile core;
  core.ram = {{0, u64{4} << 20}};
  const auto written = write_core(directory_ / "core", core, directory_ / "image");
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().find("0x300000"), std::string::npos) << written.error();
  EXPECT_FALSE(std::filesystem::exists(directory_ / "core"));
  EXPECT_FALSE(write_core(directory_ / "none" / "core", core, directory_ / "image"));
  EXPECT_FALSE(write_core(directory_ / "core", core, directory_ / "none"));
}

TEST(Dump, RamIsAllButTheWindowOfGraphics) {
  const auto ranges = ram_ranges(u64{256} << 20);
  ASSERT_EQ(ranges.size(), 2U);
  EXPECT_EQ(ranges[0].second, 0xA0000U);
  EXPECT_EQ(ranges[1].first + ranges[1].second, u64{256} << 20);
}

}  // namespace
}  // namespace perdure::tool::metal
