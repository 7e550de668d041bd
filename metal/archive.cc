#include "metal/archive.h"

#include <cstring>

#include "core/abi/kernel_note.h"
#include "metal/layout.h"

namespace perdure::metal {

namespace {

// POSIX.1-1988 ustar: a header of one block, the contents in whole blocks.
constexpr usize kBlock = 512, kNameBytes = 100, kSizeAt = 124, kSizeDigits = 11;

struct ElfHeader {
  u8 identification[16];
  u16 type, machine;
  u32 version;
  u64 entry, segments, sections;
  u32 flags;
  u16 header_bytes, segment_bytes, segment_count, section_bytes, section_count, names;
};
static_assert(sizeof(ElfHeader) == 64);

struct ElfSegment {
  u32 type, flags;
  u64 offset, address, physical, file_bytes, memory_bytes, alignment;
};
static_assert(sizeof(ElfSegment) == 56);

constexpr u32 kLoad = 1, kNote = 4;
constexpr u16 kExecutable = 2, kX86 = 62;

ElfSegment segment_of(std::string_view file, const ElfHeader& head, unsigned i) {
  ElfSegment segment;
  std::memcpy(&segment, file.data() + head.segments + i * sizeof segment, sizeof segment);
  return segment;
}

}  // namespace

Result<Member> find_member(std::string_view archive, std::string_view name) {
  while (archive.size() >= kBlock && archive[0] != '\0') {
    u64 bytes = 0;
    for (usize i = 0; i < kSizeDigits; ++i) {
      const char digit = archive[kSizeAt + i];
      if (digit < '0' || digit > '7') return fail(Errno::Enoent);
      bytes = bytes * 8 + static_cast<u64>(digit - '0');
    }
    usize length = 0;
    while (length < kNameBytes && archive[length] != '\0') ++length;
    const std::string_view member(archive.data(), length);
    archive.remove_prefix(kBlock);
    if (bytes > archive.size()) return fail(Errno::Enoent);
    if (member == name) return Member{member, archive.substr(0, bytes)};
    const u64 whole = align_up(bytes, kBlock);
    archive.remove_prefix(whole < archive.size() ? whole : archive.size());
  }
  return fail(Errno::Enoent);
}

Result<ElfImage> ElfImage::open(std::string_view file) {
  ElfHeader head;
  if (file.size() < sizeof head) return fail(Errno::Enoexec);
  std::memcpy(&head, file.data(), sizeof head);
  constexpr u8 kMagic[] = {0x7F, 'E', 'L', 'F', 2, 1, 1};
  if (std::memcmp(head.identification, kMagic, sizeof kMagic) != 0 || head.type != kExecutable ||
      head.machine != kX86 || head.segment_bytes != sizeof(ElfSegment) || head.segments > file.size() ||
      u64{head.segment_count} * sizeof(ElfSegment) > file.size() - head.segments) {
    return fail(Errno::Enoexec);
  }
  ElfImage image;
  image.file_ = file;
  image.entry_ = head.entry;
  for (Phys slot : kSlots) {
    if (head.entry >= slot.value && head.entry - slot.value < kImageBytes) image.slot_ = slot;
  }
  if (!image.slot_) return fail(Errno::Enoexec);
  for (unsigned i = 0; i < head.segment_count; ++i) {
    const ElfSegment segment = segment_of(file, head, i);
    if (segment.type != kLoad && segment.type != kNote) continue;
    if (segment.offset > file.size() || segment.file_bytes > file.size() - segment.offset) return fail(Errno::Enoexec);
    if (segment.type == kNote && image.note_.empty()) {
      image.note_ = abi::find_kernel_note({file.data() + segment.offset, segment.file_bytes});
    }
    if (segment.type != kLoad) continue;
    const u64 into = segment.address - image.slot_.value;
    if (segment.address < image.slot_.value || segment.physical != segment.address ||
        segment.file_bytes > segment.memory_bytes || segment.memory_bytes > kImageBytes ||
        into > kImageBytes - segment.memory_bytes) {
      return fail(Errno::Enoexec);
    }
  }
  return image;
}

void ElfImage::place(const Machine& machine) const {
  ElfHeader head;
  std::memcpy(&head, file_.data(), sizeof head);
  for (unsigned i = 0; i < head.segment_count; ++i) {
    const ElfSegment segment = segment_of(file_, head, i);
    if (segment.type != kLoad) continue;
    // What is there from the last time is left alone: an emulator has it translated already.
    for (u64 done = 0; done < segment.file_bytes; done += kPageSize) {
      const u64 rest = segment.file_bytes - done;
      std::byte* const to = machine.virt(Phys(segment.address + done));
      const char* const from = file_.data() + segment.offset + done;
      const u64 bytes = rest < kPageSize ? rest : kPageSize;
      if (std::memcmp(to, from, bytes) != 0) std::memcpy(to, from, bytes);
    }
  }
}

}  // namespace perdure::metal
