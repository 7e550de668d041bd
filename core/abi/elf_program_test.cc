#include "core/abi/elf_program.h"

#include <elf.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "core/abi/kernel_note.h"

namespace perdure::abi {
namespace {

// One note, one segment whose contents are "contents", with 4 bytes of zeros behind them.
struct File {
  Elf64_Ehdr head = {};
  Elf64_Phdr segments[2] = {};
  ElfKernelNote note{.descriptor = kernel_note("test 1.0", 2)};
  char contents[8] = {'c', 'o', 'n', 't', 'e', 'n', 't', 's'};

  File() {
    std::memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_ident[EI_DATA] = ELFDATA2LSB;
    head.e_ident[EI_VERSION] = EV_CURRENT;
    head.e_type = ET_EXEC;
    head.e_machine = EM_X86_64;
    head.e_entry = 0x20'0008;
    head.e_phoff = offsetof(File, segments);
    head.e_phentsize = sizeof(Elf64_Phdr);
    head.e_phnum = 2;
    segments[0] = {.p_type = PT_NOTE,
                   .p_flags = 0,
                   .p_offset = offsetof(File, note),
                   .p_vaddr = 0,
                   .p_paddr = 0,
                   .p_filesz = sizeof note,
                   .p_memsz = sizeof note,
                   .p_align = 4};
    segments[1] = {.p_type = PT_LOAD,
                   .p_flags = 0,
                   .p_offset = offsetof(File, contents),
                   .p_vaddr = 0x20'0000,
                   .p_paddr = 0x20'0000,
                   .p_filesz = sizeof contents,
                   .p_memsz = sizeof contents + 4,
                   .p_align = 1};
  }
  std::string_view bytes() const { return {reinterpret_cast<const char*>(this), sizeof *this}; }
};

TEST(ElfProgram, SaysWhereItGoesAndWhoItIs) {
  const File file;
  const auto program = ElfProgram::open(file.bytes());
  ASSERT_TRUE(program);
  EXPECT_FALSE(program->position_independent());
  EXPECT_EQ(program->entry(), 0x20'0008u);
  const auto note = parse_kernel_note(program->note());
  ASSERT_TRUE(note);
  EXPECT_EQ(note->release_name(), "test 1.0");
  unsigned seen = 0;
  EXPECT_TRUE(program->each_segment([&](const ElfProgram::Segment& s) -> Result<void> {
    ++seen;
    EXPECT_EQ(s.address, 0x20'0000u);
    EXPECT_EQ(s.contents, "contents");
    EXPECT_EQ(s.memory_bytes, 12u);
    return {};
  }));
  EXPECT_EQ(seen, 1u);
}

TEST(ElfProgram, IsThisProgram) {
  std::ifstream self("/proc/self/exe", std::ios::binary);
  std::stringstream bytes;
  bytes << self.rdbuf();
  const std::string file = bytes.str();
  const auto program = ElfProgram::open(file);
  ASSERT_TRUE(program);
  EXPECT_FALSE(program->note().empty()) << "kernel_note_test.cc has one";
}

struct Mistake {
  const char* name;
  void (*make)(File& file);
};

class ElfMistake : public testing::TestWithParam<Mistake> {};

TEST_P(ElfMistake, IsRefused) {
  File file;
  GetParam().make(file);
  const auto program = ElfProgram::open(file.bytes());
  ASSERT_FALSE(program);
  EXPECT_EQ(program.error(), Errno::Enoexec);
}

INSTANTIATE_TEST_SUITE_P(
    All, ElfMistake,
    testing::Values(Mistake{"magic", [](File& f) { f.head.e_ident[1] = 'e'; }},
                    Mistake{"class", [](File& f) { f.head.e_ident[EI_CLASS] = ELFCLASS32; }},
                    Mistake{"object", [](File& f) { f.head.e_type = ET_REL; }},
                    Mistake{"machine", [](File& f) { f.head.e_machine = EM_386; }},
                    Mistake{"header_size", [](File& f) { f.head.e_phentsize = 32; }},
                    Mistake{"headers_behind_the_end", [](File& f) { f.head.e_phoff = sizeof(File) + 1; }},
                    Mistake{"headers_far_behind_the_end", [](File& f) { f.head.e_phoff = ~u64{0} - 8; }},
                    Mistake{"more_headers_than_bytes", [](File& f) { f.head.e_phnum = 0xFFFF; }},
                    Mistake{"segment_behind_the_end", [](File& f) { f.segments[1].p_offset = sizeof(File) - 7; }},
                    Mistake{"segment_that_wraps", [](File& f) { f.segments[1].p_offset = ~u64{0} - 3; }},
                    Mistake{"note_behind_the_end", [](File& f) { f.segments[0].p_filesz = sizeof(File); }},
                    Mistake{"more_in_the_file_than_in_memory", [](File& f) { f.segments[1].p_memsz = 7; }},
                    Mistake{"beyond_all_addresses", [](File& f) { f.segments[1].p_vaddr = ~u64{0} - 4; }}),
    [](const auto& mistake) { return std::string(mistake.param.name); });

TEST(ElfProgram, IsRefusedWhenItIsCutOff) {
  const File file;
  for (usize bytes = 0; bytes < offsetof(File, contents) + sizeof file.contents; ++bytes) {
    EXPECT_FALSE(ElfProgram::open(file.bytes().substr(0, bytes))) << bytes;
  }
}

}  // namespace
}  // namespace perdure::abi
