#include "core/abi/kernel_note.h"

#include <elf.h>
#include <link.h>

PERDURE_KERNEL_NOTE(test_kernel_note, "test 1.0", 2);

namespace perdure::abi {
namespace {

std::string_view bytes_of(const KernelNote& note) {
  return {reinterpret_cast<const char*>(&note), sizeof(note)};
}

const FormatVersions* format(const KernelNote& note, std::string_view compatible) {
  for (const FormatVersions& f : note.used()) {
    if (f.compatible == compatible) return &f;
  }
  return nullptr;
}

FormatVersions& format(KernelNote& note, std::string_view compatible) {
  return const_cast<FormatVersions&>(*format(std::as_const(note), compatible));
}

TEST(KernelNote, IsInTheBinaryWhereALoaderFindsIt) {
  std::string found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, usize, void* out) {
        if (info->dlpi_name[0] != '\0') return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          if (segment.p_type != PT_NOTE) continue;
          const auto note =
              find_kernel_note({reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr), segment.p_filesz});
          if (!note.empty()) *static_cast<std::string*>(out) = note;
        }
        return 1;
      },
      &found);
  std::string_view why = "nothing";
  const auto note = parse_kernel_note(found, &why);
  ASSERT_TRUE(note) << why;
  EXPECT_EQ(note->release_name(), "test 1.0");
  EXPECT_EQ(note->used().size(), 7u);
  for (const auto* name :
       {"kho-v4", "luo-v5", "memfd-v2", "perdure-iommu", "perdure-iommufd", "perdure-vfio-pci", "perdure-pci"}) {
    EXPECT_NE(format(*note, name), nullptr) << name;
  }
  EXPECT_EQ(format(*note, "perdure-iommu")->write, 2u);
  EXPECT_EQ(format(*note, "perdure-iommu")->read_min, 1u);
}

TEST(KernelNote, LongReleasesAreCut) {
  const std::string longest(100, 'x');
  const auto note = parse_kernel_note(bytes_of(kernel_note(longest, 1)));
  ASSERT_TRUE(note);
  EXPECT_EQ(note->release_name(), std::string(63, 'x'));
}

TEST(KernelNote, FindSkipsOtherNotesAndStopsAtDamage) {
  const auto entry = [](std::string name, u32 type, const std::string& descriptor, s64 lie = 0) {
    std::string s;
    const u32 header[3] = {static_cast<u32>(name.size() + 1),
                           static_cast<u32>(static_cast<s64>(descriptor.size()) + lie), type};
    s.append(reinterpret_cast<const char*>(header), sizeof(header));
    s.append(name).push_back('\0');
    s.resize(align_up(s.size(), 4));
    s.append(descriptor);
    s.resize(align_up(s.size(), 4));
    return s;
  };
  const std::string other = entry("GNU", 3, "abc"), mine = entry("Perdure", 1, "note!");
  EXPECT_EQ(find_kernel_note(other + mine + other), "note!");
  EXPECT_EQ(find_kernel_note(mine.substr(0, mine.size() - 3)), "note!") << "padding of the last may be missing";
  EXPECT_EQ(find_kernel_note(entry("Perdure", 2, "no") + mine), "note!");
  EXPECT_EQ(find_kernel_note(entry("perdure", 1, "no") + entry("Perdur", 1, "no")), "");
  EXPECT_EQ(find_kernel_note(""), "");
  for (usize cut = 0; cut < mine.size() - 3; ++cut) EXPECT_EQ(find_kernel_note(mine.substr(0, cut)), "") << cut;
  EXPECT_EQ(find_kernel_note(entry("GNU", 3, "abc", -4) + mine), "") << "a descriptor of 4 GiB - 1";
  EXPECT_EQ(find_kernel_note(entry("GNU", 3, "abc", 100) + mine), "");
}

TEST(KernelNote, ParseRefuses) {
  const auto fault = [](auto spoil) -> std::string {
    KernelNote note = kernel_note("r", 1);
    spoil(note);
    std::string_view why;
    const auto r = parse_kernel_note(bytes_of(note), &why);
    if (r) return "accepted";
    EXPECT_EQ(r.error(), Errno::Enoexec);
    return std::string(why);
  };
  EXPECT_EQ(fault([](KernelNote&) {}), "accepted");
  EXPECT_EQ(fault([](auto& n) { n.version = 2; }), "version of the note");
  EXPECT_EQ(fault([](auto& n) { n.size -= 4; }), "size of the note");
  EXPECT_EQ(fault([](auto& n) { n.format_count = 17; }), "too many formats");
  EXPECT_EQ(fault([](auto& n) { n.format_count = ~0u; }), "too many formats");
  EXPECT_EQ(fault([](auto& n) { n.format_count = 6; }), "unused format is not zero");
  EXPECT_EQ(fault([](auto& n) { n.format_count = 8; }), "name of a format");
  EXPECT_EQ(fault([](auto& n) { n.padding = 1; }), "release");
  EXPECT_EQ(fault([](auto& n) { n.release[0] = '\0'; }), "release");
  EXPECT_EQ(fault([](auto& n) { n.release[5] = 'x'; }), "release") << "behind the end";
  EXPECT_EQ(fault([](auto& n) { n.release[0] = '\x1b'; }), "release") << "would reach a terminal";
  EXPECT_EQ(fault([](auto& n) { std::memset(n.release, 'x', sizeof(n.release)); }), "release") << "no end";
  EXPECT_EQ(fault([](auto& n) { std::memset(n.formats[2].compatible, 'x', 24); }), "name of a format");
  EXPECT_EQ(fault([](auto& n) { n.formats[2].padding = 1; }), "name of a format");
  EXPECT_EQ(fault([](auto& n) { n.formats[3].read_min = 3; }), "versions of a format");
  EXPECT_EQ(fault([](auto& n) { n.formats[3].read_min = 0; }), "versions of a format");
  EXPECT_EQ(fault([](auto& n) { n.formats[3].write = 3; }), "written version of a format");
  EXPECT_EQ(fault([](auto& n) { n.formats[3] = n.formats[0]; }), "format listed twice");
  const KernelNote note = kernel_note("r", 1);
  std::string_view why;
  for (usize cut = 0; cut < sizeof(note); ++cut) EXPECT_FALSE(parse_kernel_note(bytes_of(note).substr(0, cut), &why));
  EXPECT_FALSE(parse_kernel_note(std::string(bytes_of(note)) + "x", &why));
  EXPECT_EQ(why, "size of the note");
  EXPECT_FALSE(parse_kernel_note("", &why));
  EXPECT_EQ(why, "no note \"Perdure\"");
  EXPECT_FALSE(parse_kernel_note("")) << "nobody asks why";
}

TEST(KernelNote, EveryFlippedBitIsRefusedOrStillSound) {
  const KernelNote original = kernel_note("release", 2);
  std::string bytes(bytes_of(original));
  for (usize i = 0; i < bytes.size() * 8; ++i) {
    bytes[i / 8] = static_cast<char>(bytes[i / 8] ^ (1 << (i % 8)));
    if (const auto note = parse_kernel_note(bytes)) {
      EXPECT_LE(note->format_count, kKernelNoteMaxFormats);
      EXPECT_LT(note->release_name().size(), sizeof(note->release));
    }
    bytes[i / 8] = static_cast<char>(bytes[i / 8] ^ (1 << (i % 8)));
  }
}

TEST(KernelNote, Compatibility) {
  const KernelNote one = kernel_note("a", 1), two = kernel_note("b", 2);
  EXPECT_TRUE(check_compatible(one, one));
  EXPECT_TRUE(check_compatible(two, one));
  EXPECT_TRUE(check_compatible(one, two)) << "reads what it does not write";

  const FormatVersions* misfit = nullptr;
  const auto misfit_of = [&](const KernelNote& next, const KernelNote& current) -> std::string {
    misfit = nullptr;
    const auto r = check_compatible(next, current, &misfit);
    if (r) return "none";
    EXPECT_EQ(r.error(), Errno::Enoexec);
    return misfit == nullptr ? "?" : misfit->compatible;
  };
  KernelNote old = one;
  format(old, "perdure-pci").read_max = 1;
  EXPECT_EQ(misfit_of(old, one), "none");
  EXPECT_EQ(misfit_of(old, two), "perdure-pci") << "too new";
  KernelNote newer = two;
  format(newer, "perdure-iommu").read_min = 2;
  EXPECT_EQ(misfit_of(newer, one), "perdure-iommu") << "too old";
  KernelNote renamed = one;
  std::memcpy(format(renamed, "luo-v5").compatible, "luo-v6", 6);
  EXPECT_EQ(misfit_of(renamed, one), "luo-v5");
  KernelNote reader = renamed;  // reads v5 as well
  reader.formats[reader.format_count++] = *format(one, "luo-v5");
  reader.formats[reader.format_count - 1].write = 0;
  EXPECT_TRUE(parse_kernel_note(bytes_of(reader)));
  EXPECT_EQ(misfit_of(reader, one), "none");
  EXPECT_EQ(misfit_of(one, reader), "luo-v6") << "and what it only reads does not count";
  EXPECT_EQ(misfit_of(KernelNote{}, one), "kho-v4");
  EXPECT_EQ(misfit_of(one, KernelNote{}), "none");
  EXPECT_FALSE(check_compatible(old, two)) << "nobody asks which";
}

}  // namespace
}  // namespace perdure::abi
