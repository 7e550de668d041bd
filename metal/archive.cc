#include "metal/archive.h"

#include <cstring>

#include "metal/layout.h"

namespace perdure::metal {

namespace {

// POSIX.1-1988 ustar: a header of one block, the contents in whole blocks.
constexpr usize kBlock = 512, kNameBytes = 100, kSizeAt = 124, kSizeDigits = 11;

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

Result<Phys> slot_of(const abi::ElfProgram& program) {
  const auto into = [](Phys slot, u64 at) { return at >= slot.value ? at - slot.value : ~u64{0}; };
  for (Phys slot : kSlots) {
    if (into(slot, program.entry()) >= kImageBytes || program.position_independent()) continue;
    TRY(program.each_segment([&](const abi::ElfProgram::Segment& s) -> Result<void> {
      if (s.memory_bytes > kImageBytes || into(slot, s.address) > kImageBytes - s.memory_bytes) {
        return fail(Errno::Enoexec);
      }
      return {};
    }));
    return slot;
  }
  return fail(Errno::Enoexec);
}

void place(const abi::ElfProgram& program, const Machine& machine) {
  static_cast<void>(program.each_segment([&](const abi::ElfProgram::Segment& s) -> Result<void> {
    // What is there from the last time is left alone: an emulator has it translated already. What is zero at the start
    // is the image's own business.
    for (u64 done = 0; done < s.contents.size(); done += kPageSize) {
      const u64 rest = s.contents.size() - done;
      const u64 bytes = rest < kPageSize ? rest : kPageSize;
      std::byte* const to = machine.virt(Phys(s.address + done));
      if (std::memcmp(to, s.contents.data() + done, bytes) != 0) std::memcpy(to, s.contents.data() + done, bytes);
    }
    return {};
  }));
}

}  // namespace perdure::metal
