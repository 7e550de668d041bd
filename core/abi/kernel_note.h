// What a kernel can read of its predecessor and writes for its successor: the descriptor of the ELF note "Perdure" in
// every kernel binary. Loading a kernel checks it before anything is frozen.
#pragma once
#include <cstddef>
#include <span>
#include <string_view>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::abi {

inline constexpr char kKernelNoteName[8] = "Perdure";  // of the ELF note, with its NUL
inline constexpr u32 kKernelNoteType = 1;              // of the ELF note
inline constexpr u32 kKernelNoteVersion = 1;           // of the descriptor
inline constexpr usize kKernelNoteMaxFormats = 16;

// One format. A kernel that reads a format in two incompatible forms lists it twice, with different `compatible`.
struct FormatVersions {
  char name[24] = {};        // "iommu"
  char compatible[24] = {};  // as the image names it: "perdure-iommu"
  u32 read_min = 0;
  u32 read_max = 0;
  u32 write = 0;  // 0: reads it only
  u32 padding = 0;
};
static_assert(sizeof(FormatVersions) == 64);

// Only 4-byte words, as notes are aligned to 4.
struct KernelNote {
  u32 version = kKernelNoteVersion;
  u32 size = sizeof(KernelNote);  // of the descriptor
  u32 format_count = 0;
  u32 padding = 0;
  char release[64] = {};
  FormatVersions formats[kKernelNoteMaxFormats] = {};  // from format_count on all zero

  std::string_view release_name() const { return {release}; }
  std::span<const FormatVersions> used() const { return {formats, format_count}; }
};
static_assert(sizeof(KernelNote) == 80 + 64 * kKernelNoteMaxFormats && alignof(KernelNote) == 4);

// The note of a kernel built from these sources, which writes Perdure's own records at `write_version` (1 or 2) and
// reads both. A release longer than 63 characters is cut.
constexpr KernelNote kernel_note(std::string_view release, u32 write_version) {
  KernelNote note;
  const auto copy = [](char* to, usize size, std::string_view text) {
    for (usize i = 0; i + 1 < size && i < text.size(); ++i) to[i] = text[i];
  };
  const auto add = [&](std::string_view name, std::string_view compatible, u32 min, u32 max, u32 write) {
    FormatVersions& f = note.formats[note.format_count++];
    copy(f.name, sizeof(f.name), name);
    copy(f.compatible, sizeof(f.compatible), compatible);
    f.read_min = min;
    f.read_max = max;
    f.write = write;
  };
  copy(note.release, sizeof(note.release), release);
  // Linux's formats carry their version in their name.
  add("kho", "kho-v4", 4, 4, 4);
  add("luo", "luo-v5", 5, 5, 5);
  add("memfd", "memfd-v2", 2, 2, 2);
  add("iommu", "perdure-iommu", 1, 2, write_version);
  add("iommufd", "perdure-iommufd", 1, 2, write_version);
  add("vfio-pci", "perdure-vfio-pci", 1, 2, write_version);
  add("pci", "perdure-pci", 1, 2, write_version);
  return note;
}

// A descriptor as it was found in a kernel binary, checked: version, size, counts, texts, ranges. Enoexec; `why`, if
// given, says what is wrong.
Result<KernelNote> parse_kernel_note(std::string_view descriptor, std::string_view* why = nullptr);
// The descriptor in the contents of a PT_NOTE segment or SHT_NOTE section; empty if there is none.
std::string_view find_kernel_note(std::string_view notes);

// Can `next` read all that `current` writes? Enoexec if not, and `misfit`, if given, is the format of `current` that
// `next` does not read.
Result<void> check_compatible(const KernelNote& next, const KernelNote& current,
                              const FormatVersions** misfit = nullptr);

// An ELF note as it lies in the binary.
struct ElfKernelNote {
  u32 name_size = sizeof(kKernelNoteName);
  u32 descriptor_size = sizeof(KernelNote);
  u32 type = kKernelNoteType;
  char name[8] = {'P', 'e', 'r', 'd', 'u', 'r', 'e', '\0'};
  KernelNote descriptor;
};
static_assert(sizeof(ElfKernelNote) == 20 + sizeof(KernelNote));

}  // namespace perdure::abi

// Once in a kernel binary, in one of its own sources (an archive's member that nobody refers to is not linked): places
// the note in the section .note.perdure and names it `variable`.
#define PERDURE_KERNEL_NOTE(variable, release, write_version)             \
  [[gnu::section(".note.perdure"), gnu::used, gnu::aligned(4)]]           \
  extern constinit const ::perdure::abi::ElfKernelNote variable {         \
    .descriptor = ::perdure::abi::kernel_note((release), (write_version)) \
  }
