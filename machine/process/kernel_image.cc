#include "machine/process/kernel_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/abi/elf_program.h"
#include "core/base/scope_guard.h"
#include "machine/host/host_files.h"

namespace perdure::process {

std::filesystem::path kernel_path(const std::filesystem::path& directory, std::string_view name) {
  const std::filesystem::path path(name);
  return path.has_parent_path() ? path : directory / ("perdure-kernel-" + std::string(name));
}

Result<Ref<FileImage>> FileImage::open(const std::filesystem::path& path) {
  host::Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail(host::last_error());
  struct stat st = {};
  if (fstat(fd.get(), &st) != 0) return fail(host::last_error());
  if (!S_ISREG(st.st_mode) || st.st_size == 0) return fail(Errno::Enoexec);
  if (access(path.c_str(), X_OK) != 0) return fail(Errno::Eacces);
  const auto bytes = static_cast<usize>(st.st_size);
  void* const at = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  const ScopeGuard unmap([&] { munmap(at, bytes); });
  const auto program = TRY(abi::ElfProgram::open({static_cast<const char*>(at), bytes}));
  return Ref<FileImage>::adopt(new FileImage(path.filename().string(), std::string(program.note()), std::move(fd)));
}

}  // namespace perdure::process
