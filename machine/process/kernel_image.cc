#include "machine/process/kernel_image.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "core/abi/kernel_note.h"
#include "machine/host/host_files.h"

namespace perdure::process {

namespace {

constexpr u64 kMostNotes = u64{1} << 20;

bool read_at(int fd, u64 offset, void* to, usize bytes) {
  return pread(fd, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

}  // namespace

Result<Ref<FileImage>> FileImage::open(const std::filesystem::path& path) {
  host::Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail(host::last_error());
  struct stat st = {};
  if (fstat(fd.get(), &st) != 0) return fail(host::last_error());
  if (!S_ISREG(st.st_mode)) return fail(Errno::Enoexec);
  if (access(path.c_str(), X_OK) != 0) return fail(Errno::Eacces);
  Elf64_Ehdr head;
  if (!read_at(fd.get(), 0, &head, sizeof head) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
      head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr)) {
    return fail(Errno::Enoexec);
  }
  std::string note;
  for (unsigned i = 0; i < head.e_phnum && note.empty(); ++i) {
    Elf64_Phdr segment;
    if (!read_at(fd.get(), head.e_phoff + i * sizeof segment, &segment, sizeof segment)) return fail(Errno::Enoexec);
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMostNotes) continue;
    std::vector<char> notes(segment.p_filesz);
    if (!read_at(fd.get(), segment.p_offset, notes.data(), notes.size())) return fail(Errno::Enoexec);
    note = abi::find_kernel_note({notes.data(), notes.size()});
  }
  return Ref<FileImage>::adopt(new FileImage(path.filename().string(), std::move(note), std::move(fd)));
}

}  // namespace perdure::process
