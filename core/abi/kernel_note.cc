#include "core/abi/kernel_note.h"

#include <cstring>

namespace perdure::abi {

namespace {

// Printable, NUL-terminated, and nothing behind the NUL.
template <usize N>
bool is_text(const char (&text)[N]) {
  usize length = 0;
  while (length < N && text[length] != '\0') {
    if (text[length] < ' ' || text[length] > '~') return false;
    ++length;
  }
  if (length == 0 || length == N) return false;
  for (usize i = length; i < N; ++i) {
    if (text[i] != '\0') return false;
  }
  return true;
}

template <usize N>
bool same(const char (&a)[N], const char (&b)[N]) {
  return std::memcmp(a, b, N) == 0;
}

bool same_format(const FormatVersions& a, const FormatVersions& b) {
  return same(a.name, b.name) && same(a.compatible, b.compatible);
}

std::string_view fault_of(const KernelNote& note) {
  if (note.format_count > kKernelNoteMaxFormats) return "too many formats";
  if (note.padding != 0 || !is_text(note.release)) return "release";
  for (usize i = 0; i < kKernelNoteMaxFormats; ++i) {
    const FormatVersions& f = note.formats[i];
    if (i >= note.format_count) {
      constexpr FormatVersions kUnused;
      if (std::memcmp(&f, &kUnused, sizeof(f)) != 0) return "unused format is not zero";
      continue;
    }
    if (!is_text(f.name) || !is_text(f.compatible) || f.padding != 0) return "name of a format";
    if (f.read_min == 0 || f.read_min > f.read_max) return "versions of a format";
    // What a kernel writes it must be able to read after a rollback to itself.
    if (f.write != 0 && (f.write < f.read_min || f.write > f.read_max)) return "written version of a format";
    for (usize k = 0; k < i; ++k) {
      if (same_format(note.formats[k], f)) return "format listed twice";
    }
  }
  return {};
}

}  // namespace

Result<KernelNote> parse_kernel_note(std::string_view descriptor, std::string_view* why) {
  const auto refuse = [why](std::string_view reason) {
    if (why != nullptr) *why = reason;
    return fail(Errno::Enoexec);
  };
  if (descriptor.empty()) return refuse("no note \"Perdure\"");
  KernelNote note;
  if (descriptor.size() >= sizeof(u32)) std::memcpy(&note.version, descriptor.data(), sizeof(u32));
  if (descriptor.size() < sizeof(u32) || note.version != kKernelNoteVersion) return refuse("version of the note");
  if (descriptor.size() != sizeof(KernelNote)) return refuse("size of the note");
  std::memcpy(&note, descriptor.data(), sizeof(note));
  if (note.size != sizeof(KernelNote)) return refuse("size of the note");
  if (const std::string_view fault = fault_of(note); !fault.empty()) return refuse(fault);
  return note;
}

std::string_view find_kernel_note(std::string_view notes) {
  constexpr usize kHeader = 3 * sizeof(u32);
  constexpr std::string_view kName(kKernelNoteName, sizeof(kKernelNoteName));
  while (notes.size() >= kHeader) {
    u32 header[3];  // sizes of name and descriptor, type
    std::memcpy(header, notes.data(), kHeader);
    notes.remove_prefix(kHeader);
    // 64-bit sums, so that nothing wraps. The last descriptor need not be padded.
    const u64 name_bytes = align_up(u64{header[0]}, 4);
    if (name_bytes > notes.size() || header[1] > notes.size() - name_bytes) return {};
    const std::string_view name(notes.data(), header[0]);
    const std::string_view descriptor(notes.data() + name_bytes, header[1]);
    if (header[2] == kKernelNoteType && name == kName) return descriptor;
    const u64 whole = name_bytes + align_up(u64{header[1]}, 4);
    notes.remove_prefix(whole < notes.size() ? whole : notes.size());
  }
  return {};
}

Result<void> check_compatible(const KernelNote& next, const KernelNote& current, const FormatVersions** misfit) {
  for (const FormatVersions& written : current.used()) {
    if (written.write == 0) continue;
    bool fits = false;
    for (const FormatVersions& read : next.used()) {
      fits = fits || (same_format(read, written) && read.read_min <= written.write && written.write <= read.read_max);
    }
    if (fits) continue;
    if (misfit != nullptr) *misfit = &written;
    return fail(Errno::Enoexec);
  }
  return {};
}

}  // namespace perdure::abi
