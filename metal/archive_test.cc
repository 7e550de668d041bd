#include "metal/archive.h"

#include <elf.h>

#include <cstring>
#include <string>

#include "metal/layout.h"
#include "tests/support/test_machine.h"

namespace perdure::metal {
namespace {

// POSIX.1-1988 ustar, as `cmake -E tar` writes it.
std::string member(const std::string& name, const std::string& contents) {
  std::string header(512, '\0');
  name.copy(header.data(), 100);
  char size[12];
  std::snprintf(size, sizeof size, "%011zo", contents.size());
  std::memcpy(header.data() + 124, size, 11);
  std::string padded = contents;
  padded.resize((contents.size() + 511) / 512 * 512);
  return header + padded;
}

TEST(Archive, FindsEachMember) {
  const std::string archive = member("a", "first") + member("bb", std::string(1000, 'x')) + member("c", "") +
                              member("d", "last") + std::string(1024, '\0');
  EXPECT_EQ(find_member(archive, "a")->contents, "first");
  EXPECT_EQ(find_member(archive, "bb")->contents, std::string(1000, 'x'));
  EXPECT_EQ(find_member(archive, "c")->contents, "");
  EXPECT_EQ(find_member(archive, "d")->contents, "last");
  EXPECT_EQ(find_member(archive, "d")->name, "d");
  EXPECT_EQ(find_member(archive, "b").error(), Errno::Enoent);
  EXPECT_EQ(find_member("", "a").error(), Errno::Enoent);
}

TEST(Archive, CutOffAnywhereHasNothingBehindTheCut) {
  const std::string archive = member("a", "first") + member("b", std::string(700, 'x'));
  for (usize bytes = 0; bytes < archive.size(); ++bytes) {
    const auto found = find_member(std::string_view(archive).substr(0, bytes), "b");
    EXPECT_EQ(found.has_value(), bytes >= 512 + 512 + 512 + 700) << bytes;
  }
}

TEST(Archive, SizeThatIsNoNumberEndsIt) {
  std::string archive = member("a", "first") + member("b", "second");
  archive[130] = 'x';
  EXPECT_EQ(find_member(archive, "b").error(), Errno::Enoent);
}

// A program with one segment.
std::string program(u64 address, u64 entry, u64 memory_bytes, const std::string& contents, u16 type = ET_EXEC) {
  Elf64_Ehdr head = {};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_ident[EI_VERSION] = EV_CURRENT;
  head.e_type = type;
  head.e_machine = EM_X86_64;
  head.e_entry = entry;
  head.e_phoff = sizeof head;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 1;
  Elf64_Phdr segment = {};
  segment.p_type = PT_LOAD;
  segment.p_offset = sizeof head + sizeof segment;
  segment.p_vaddr = segment.p_paddr = address;
  segment.p_filesz = contents.size();
  segment.p_memsz = memory_bytes;
  return std::string(reinterpret_cast<const char*>(&head), sizeof head) +
         std::string(reinterpret_cast<const char*>(&segment), sizeof segment) + contents;
}

TEST(Slots, TakeWhatLiesInTheirImagePart) {
  const auto goes_to = [](const std::string& file) { return slot_of(*abi::ElfProgram::open(file)); };
  for (const Phys slot : kSlots) {
    const u64 base = slot.value;
    EXPECT_EQ(*goes_to(program(base, base, kImageBytes, "x")), slot);
    EXPECT_EQ(*goes_to(program(base + kImageBytes - 4, base, 4, "x")), slot);
    EXPECT_FALSE(goes_to(program(base, base, kImageBytes + 1, "x"))) << "reaches into the part that kernels boot from";
    EXPECT_FALSE(goes_to(program(base - 1, base, 4, "x")));
    EXPECT_FALSE(goes_to(program(base + kImageBytes - 3, base, 4, "x")));
    EXPECT_FALSE(goes_to(program(base, base + kImageBytes, 4, "x"))) << "entry outside";
    EXPECT_FALSE(goes_to(program(base, base, 4, "x", ET_DYN)));
  }
  EXPECT_FALSE(goes_to(program(kSlots[1].value, kSlots[0].value, 4, "x"))) << "in one slot, entered in the other";
}

TEST(Slots, GetTheContentsAndNothingElse) {
  test::TestMachine machine;
  const u64 base = kSlots[0].value;
  std::string contents(3 * kPageSize + 5, 'c');
  std::byte* const at = machine.virt(kSlots[0]);
  std::memset(at - 1, 0x55, contents.size() + 2);
  std::memset(at + kPageSize, 'c', kPageSize);  // as it was left by an earlier jump
  const std::string file = program(base, base, contents.size(), contents);
  place(*abi::ElfProgram::open(file), machine);
  EXPECT_EQ(std::memcmp(at, contents.data(), contents.size()), 0);
  EXPECT_EQ(at[-1], std::byte{0x55});
  EXPECT_EQ(at[contents.size()], std::byte{0x55});
}

}  // namespace
}  // namespace perdure::metal
