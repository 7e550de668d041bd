#include "tool/metal/core_file.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "core/abi/kernel_note.h"
#include "machine/host/descriptor.h"

namespace perdure::tool::metal {

namespace {

constexpr usize kBlock = usize{64} << 10;  // found empty or copied as one

std::unexpected<std::string> fault(const std::filesystem::path& file) {
  return std::unexpected(fmt::format("{}: {}", file.string(), std::strerror(errno)));
}

// A new file, written front to back. Removed again unless it was finished.
class Output {
 public:
  explicit Output(const std::filesystem::path& path)
      : path_(path), file_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {}
  ~Output() {
    std::error_code ignored;
    if (file_ && !finished_) std::filesystem::remove(path_, ignored);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  bool opened() const { return static_cast<bool>(file_); }
  bool write(std::span<const char> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      bytes = bytes.subspan(static_cast<usize>(n));
    }
    return true;
  }
  bool skip(u64 bytes) { return lseek(file_.get(), static_cast<off_t>(bytes), SEEK_CUR) >= 0; }
  bool finish(u64 size) {
    finished_ = ftruncate(file_.get(), static_cast<off_t>(size)) == 0;
    return finished_;
  }

 private:
  const std::filesystem::path path_;
  host::Descriptor file_;
  bool finished_ = false;
};

template <class T>
void append(std::vector<char>& to, const T& value) {
  const char* bytes = reinterpret_cast<const char*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

void append_note(std::vector<char>& notes, u32 type, std::span<const char> descriptor) {
  append(notes, Elf64_Nhdr{.n_namesz = sizeof(abi::kKernelNoteName),
                           .n_descsz = static_cast<u32>(descriptor.size()),
                           .n_type = type});
  notes.insert(notes.end(), std::begin(abi::kKernelNoteName), std::end(abi::kKernelNoteName));
  notes.insert(notes.end(), descriptor.begin(), descriptor.end());
  notes.resize((notes.size() + 3) & ~usize{3});
}

std::vector<char> notes_of(const CoreFile& core) {
  std::vector<char> notes;
  std::vector<char> descriptor;
  append(descriptor, core.jump);
  append_note(notes, kJumpNote, descriptor);
  for (const UnitRegisters& unit : core.units) {
    descriptor.clear();
    append(descriptor, UnitNote{.base = unit.base, .length = unit.bytes.size()});
    descriptor.insert(descriptor.end(), unit.bytes.begin(), unit.bytes.end());
    append_note(notes, kUnitNote, descriptor);
  }
  return notes;
}

// [base, base + length) of the image.
std::expected<void, std::string> copy(Output& out, const std::filesystem::path& to, int image,
                                      const std::filesystem::path& from, MemoryRange range) {
  std::vector<char> block(kBlock);
  for (u64 done = 0; done < range.length;) {
    const usize want = static_cast<usize>(std::min<u64>(kBlock, range.length - done));
    const ssize_t n = pread(image, block.data(), want, static_cast<off_t>(range.base + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fault(from);
    if (n == 0) {
      return std::unexpected(fmt::format("{} ends at {:#x}, before the memory at {:#x}", from.string(),
                                         range.base + done, range.base + range.length));
    }
    const std::span<const char> got(block.data(), static_cast<usize>(n));
    const bool empty = std::all_of(got.begin(), got.end(), [](char c) { return c == 0; });
    if (!(empty ? out.skip(got.size()) : out.write(got))) return fault(to);
    done += got.size();
  }
  return {};
}

}  // namespace

std::expected<void, std::string> write_core(const std::filesystem::path& to, const CoreFile& core,
                                            const std::filesystem::path& image) {
  const host::Descriptor from(open(image.c_str(), O_RDONLY | O_CLOEXEC));
  if (!from) return fault(image);
  Output out(to);
  if (!out.opened()) return fault(to);

  const std::vector<char> notes = notes_of(core);
  const u64 headers = sizeof(Elf64_Ehdr) + (core.ram.size() + 1) * sizeof(Elf64_Phdr);
  std::vector<char> front;
  Elf64_Ehdr file{};
  std::memcpy(file.e_ident, ELFMAG, SELFMAG);
  file.e_ident[EI_CLASS] = ELFCLASS64;
  file.e_ident[EI_DATA] = ELFDATA2LSB;
  file.e_ident[EI_VERSION] = EV_CURRENT;
  file.e_type = ET_CORE;
  file.e_machine = EM_X86_64;
  file.e_version = EV_CURRENT;
  file.e_phoff = sizeof file;
  file.e_ehsize = sizeof file;
  file.e_phentsize = sizeof(Elf64_Phdr);
  file.e_phnum = static_cast<Elf64_Half>(core.ram.size() + 1);
  append(front, file);
  append(front, Elf64_Phdr{.p_type = PT_NOTE,
                           .p_flags = 0,
                           .p_offset = headers,
                           .p_vaddr = 0,
                           .p_paddr = 0,
                           .p_filesz = notes.size(),
                           .p_memsz = 0,
                           .p_align = 4});
  const auto whole_pages = [](u64 n) { return (n + kPageSize - 1) & ~(kPageSize - 1); };
  u64 at = whole_pages(headers + notes.size());
  for (const MemoryRange& range : core.ram) {
    append(front, Elf64_Phdr{.p_type = PT_LOAD,
                             .p_flags = PF_R | PF_W | PF_X,
                             .p_offset = at,
                             .p_vaddr = range.base,
                             .p_paddr = range.base,
                             .p_filesz = range.length,
                             .p_memsz = range.length,
                             .p_align = kPageSize});
    at += whole_pages(range.length);
  }
  front.insert(front.end(), notes.begin(), notes.end());
  front.resize(whole_pages(front.size()));
  if (!out.write(front)) return fault(to);
  for (const MemoryRange& range : core.ram) {
    if (auto done = copy(out, to, from.get(), image, range); !done) return done;
    if (!out.skip(whole_pages(range.length) - range.length)) return fault(to);
  }
  if (!out.finish(at)) return fault(to);
  return {};
}

std::expected<void, std::string> write_raw(const std::filesystem::path& to, const std::filesystem::path& image) {
  const host::Descriptor from(open(image.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!from || fstat(from.get(), &status) != 0) return fault(image);
  Output out(to);
  if (!out.opened()) return fault(to);
  const u64 size = static_cast<u64>(status.st_size);
  if (auto done = copy(out, to, from.get(), image, {.base = 0, .length = size}); !done) return done;
  if (!out.finish(size)) return fault(to);
  return {};
}

}  // namespace perdure::tool::metal
