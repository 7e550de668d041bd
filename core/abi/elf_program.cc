#include "core/abi/elf_program.h"

#include <cstring>

#include "core/abi/kernel_note.h"

namespace perdure::abi {

namespace {

// System V ABI, object files: 64-bit, little endian.
struct Header {
  u8 identification[16];
  u16 type, machine;
  u32 version;
  u64 entry, segments, sections;
  u32 flags;
  u16 header_bytes, segment_bytes, segment_count, section_bytes, section_count, names;
};
static_assert(sizeof(Header) == 64);

struct ProgramHeader {
  u32 type, flags;
  u64 offset, address, physical, file_bytes, memory_bytes, alignment;
};
static_assert(sizeof(ProgramHeader) == 56);

constexpr u8 kIdentification[] = {0x7F, 'E', 'L', 'F', 2, 1, 1};
constexpr u16 kExecutable = 2, kShared = 3, kX86 = 62;
constexpr u32 kLoad = 1, kNote = 4;

// Of a file that open() has looked at.
Header header_of(std::string_view file) {
  Header head;
  std::memcpy(&head, file.data(), sizeof head);
  return head;
}

ProgramHeader segment_of(std::string_view file, const Header& head, unsigned i) {
  ProgramHeader segment;
  std::memcpy(&segment, file.data() + head.segments + i * sizeof segment, sizeof segment);
  return segment;
}

}  // namespace

Result<ElfProgram> ElfProgram::open(std::string_view file) {
  if (file.size() < sizeof(Header)) return fail(Errno::Enoexec);
  const Header head = header_of(file);
  if (std::memcmp(head.identification, kIdentification, sizeof kIdentification) != 0 ||
      (head.type != kExecutable && head.type != kShared) || head.machine != kX86 ||
      head.segment_bytes != sizeof(ProgramHeader) || head.segments > file.size() ||
      u64{head.segment_count} * sizeof(ProgramHeader) > file.size() - head.segments) {
    return fail(Errno::Enoexec);
  }
  for (unsigned i = 0; i < head.segment_count; ++i) {
    const ProgramHeader segment = segment_of(file, head, i);
    if (segment.type != kLoad && segment.type != kNote) continue;
    if (segment.offset > file.size() || segment.file_bytes > file.size() - segment.offset ||
        segment.file_bytes > segment.memory_bytes || range_overflows(segment.address, segment.memory_bytes)) {
      return fail(Errno::Enoexec);
    }
  }
  return ElfProgram(file);
}

bool ElfProgram::position_independent() const {
  return header_of(file_).type == kShared;
}

u64 ElfProgram::entry() const {
  return header_of(file_).entry;
}

std::string_view ElfProgram::note() const {
  const Header head = header_of(file_);
  for (unsigned i = 0; i < head.segment_count; ++i) {
    const ProgramHeader segment = segment_of(file_, head, i);
    if (segment.type != kNote) continue;
    const std::string_view note = find_kernel_note({file_.data() + segment.offset, segment.file_bytes});
    if (!note.empty()) return note;
  }
  return {};
}

Result<void> ElfProgram::each_segment(FunctionRef<Result<void>(const Segment&)> visit) const {
  const Header head = header_of(file_);
  for (unsigned i = 0; i < head.segment_count; ++i) {
    const ProgramHeader segment = segment_of(file_, head, i);
    if (segment.type != kLoad) continue;
    TRY(visit({.address = segment.address,
               .contents = {file_.data() + segment.offset, segment.file_bytes},
               .memory_bytes = segment.memory_bytes}));
  }
  return {};
}

}  // namespace perdure::abi
