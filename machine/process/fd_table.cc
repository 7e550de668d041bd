#include "machine/process/fd_table.h"

#include "machine/host/host_files.h"

namespace perdure::process {

Result<Ref<File>> FdTable::get(s32 fd) {
  const std::scoped_lock lock(mutex_);
  const auto file = files_.find(fd);
  if (file == files_.end()) return fail(Errno::Ebadf);
  return file->second;
}

Result<Ref<File>> FdTable::wrap(host::Descriptor fd) {
  switch (host::kind_of(fd.get())) {
    case host::HostKind::Memory:
      return Ref<File>(TRY(host_files_.memory(TRY(host::open_memory(host_objects_, std::move(fd))))));
    case host::HostKind::Event:
      return Ref<File>(TRY(host_files_.event(TRY(host::open_event(host_objects_, std::move(fd))))));
    case host::HostKind::Other: break;
  }
  return Ref<File>(Ref<OpaqueFile>::adopt(new OpaqueFile(host_objects_)));
}

Result<s32> FdTable::reserve() {
  const std::scoped_lock lock(mutex_);
  for (s32 fd = host::kFirstKernelFd; fd < host::kFirstKernelFd + kMost; ++fd) {
    if (files_.contains(fd) || reserved_.contains(fd)) continue;
    reserved_.insert(fd);
    return fd;
  }
  return fail(Errno::Emfile);
}

void FdTable::install(s32 fd, Ref<File> file) {
  const std::scoped_lock lock(mutex_);
  reserved_.erase(fd);
  files_[fd] = std::move(file);
}

void FdTable::release(s32 fd) {
  const std::scoped_lock lock(mutex_);
  reserved_.erase(fd);
}

Result<void> FdTable::close(s32 fd) {
  Ref<File> last;  // dropped outside the lock: the last close may do much
  {
    const std::scoped_lock lock(mutex_);
    const auto file = files_.find(fd);
    if (file == files_.end()) return fail(Errno::Ebadf);
    last = std::move(file->second);
    files_.erase(file);
  }
  return {};
}

void FdTable::close_all() {
  std::map<s32, Ref<File>> files;
  {
    const std::scoped_lock lock(mutex_);
    files.swap(files_);
  }
  // As a dying Linux process does: in the order of the numbers.
  while (!files.empty()) files.erase(files.begin());
}

void FdTable::abandon() {
  const std::scoped_lock lock(mutex_);
  for (auto& [fd, file] : files_) (void)file.release();
  files_.clear();
}

int FdTable::host_descriptor(File& file) {
  auto* memory = file_cast<SharedMemory>(&file);
  return memory ? static_cast<host::Memfd&>(memory->host()).fd() : -1;
}

}  // namespace perdure::process
