#include "machine/host/host_files.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace perdure::host {

Errno last_error() {
  return static_cast<Errno>(errno);
}

Result<u64> file_id(int fd) {
  struct stat st = {};
  if (fstat(fd, &st) != 0) return fail(last_error());
  // All memfds live on one kernel-internal file system, all eventfds share one inode: see kind_of().
  return static_cast<u64>(st.st_dev) << 40 | static_cast<u64>(st.st_ino);
}

HostObjects::Object::Object(HostObjects& home) : home_(home) {
  const std::scoped_lock lock(home_.mutex_);
  home_.live_.insert(this);
}

HostObjects::Object::~Object() {
  const std::scoped_lock lock(home_.mutex_);
  home_.live_.erase(this);
}

void HostObjects::end_all() {
  for (;;) {
    Object* one = nullptr;
    {
      const std::scoped_lock lock(mutex_);
      if (live_.empty()) return;
      one = *live_.begin();
    }
    one->destroy();
  }
}

u64 Memfd::size() const {
  struct stat st = {};
  return fstat(fd_.get(), &st) == 0 ? static_cast<u64>(st.st_size) : 0;
}

u32 Memfd::seals() const {
  const int seals = fcntl(fd_.get(), F_GET_SEALS);
  return seals < 0 ? 0 : static_cast<u32>(seals);
}

Result<void> Memfd::add_seals(u32 seals) {
  if (fcntl(fd_.get(), F_ADD_SEALS, seals) != 0) return fail(last_error());
  return {};
}

Result<void> Memfd::resize(u64 bytes) {
  if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) return fail(last_error());
  return {};
}

u64 Memfd::position() const {
  const off_t at = lseek(fd_.get(), 0, SEEK_CUR);
  return at < 0 ? 0 : static_cast<u64>(at);
}

void Memfd::set_position(u64 bytes) {
  lseek(fd_.get(), static_cast<off_t>(bytes), SEEK_SET);
}

bool Memfd::nameless() const {
  struct stat st = {};
  struct statfs fs = {};
  return fstat(fd_.get(), &st) == 0 && st.st_nlink == 0 && fstatfs(fd_.get(), &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

void HostEventFd::signal(u64 count) {
  // A full counter means that the program is far behind; the event is pending all the same.
  [[maybe_unused]] const ssize_t n = write(fd_.get(), &count, sizeof count);
}

// Does not wait even where the program reads it at the same moment.
u64 HostEventFd::take() {
  u64 count = 0;
  iovec to{&count, sizeof count};
  return preadv2(fd_.get(), &to, 1, -1, RWF_NOWAIT) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

HostKind kind_of(int fd) {
  struct stat st = {};
  if (fstat(fd, &st) != 0) return HostKind::Other;
  if (S_ISREG(st.st_mode) && fcntl(fd, F_GET_SEALS) >= 0) return HostKind::Memory;
  char target[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  if (readlink(link.c_str(), target, sizeof target - 1) > 0 && std::string_view(target) == "anon_inode:[eventfd]") {
    return HostKind::Event;
  }
  return HostKind::Other;
}

Result<Ref<HostMemory>> open_memory(HostObjects& home, Descriptor fd) {
  const u64 id = TRY(file_id(fd.get()));
  return Ref<HostMemory>(Ref<Memfd>::adopt(new Memfd(home, std::move(fd), id)));
}

Result<Ref<HostEvent>> open_event(HostObjects& home, Descriptor fd) {
  if (fcntl(fd.get(), F_GETFD) < 0) return fail(last_error());
  // Anonymous inodes are shared; two descriptors of one eventfd are two objects, which signals do not notice.
  const auto id = static_cast<u64>(fd.get());
  return Ref<HostEvent>(Ref<HostEventFd>::adopt(new HostEventFd(home, std::move(fd), id)));
}

Result<Ref<HostMemory>> create_memory(HostObjects& home, u64 bytes) {
  Descriptor fd(memfd_create("perdure", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail(last_error());
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return fail(last_error());
  return open_memory(home, std::move(fd));
}

}  // namespace perdure::host
