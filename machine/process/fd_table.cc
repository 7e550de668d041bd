#include "machine/process/fd_table.h"

namespace perdure::process {

Result<Ref<File>> FdTable::get(s32 fd) {
  const std::scoped_lock lock(mutex_);
  const auto file = files_.find(fd);
  if (file == files_.end()) return fail(Errno::Ebadf);
  return file->second;
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

}  // namespace perdure::process
