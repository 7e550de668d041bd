#include "machine/intercept/registry.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "machine/host/host_files.h"

namespace perdure::intercept {

namespace {

Result<FileId> id_of(int fd) {
  struct stat st = {};
  if (fstat(fd, &st) != 0) return fail(host::last_error());
  return FileId{st.st_dev, st.st_ino};
}

std::string own_path(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

// Files with mappings and positions; of the others only the ioctls and the last close matter.
bool has_memory(std::string_view name) {
  return name.starts_with("/dev/iommu") || name.starts_with("/dev/vfio/vfio") ||
         name.starts_with("/dev/vfio/devices/") || name.starts_with("anon_inode:[vfio-device]");
}

}  // namespace

Result<std::unique_ptr<Registry>> Registry::create() {
  host::Descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail(host::last_error());
  host::Descriptor inotify(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify) return fail(host::last_error());
  epoll_event event = {.events = EPOLLIN, .data = {.fd = inotify.get()}};
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, inotify.get(), &event) != 0) return fail(host::last_error());
  return std::unique_ptr<Registry>(new Registry(std::move(epoll), std::move(inotify)));
}

Result<host::Descriptor> Registry::make(u64 handle, const std::string& name, int flags) {
  File file;
  file.entry = {.handle = handle, .name = name, .access = flags & O_ACCMODE, .mappable = has_memory(name)};
  return file.entry.mappable ? make_memory(std::move(file), flags) : make_socket(std::move(file));
}

// A memfd of its own for every open. The program gets a second opening of it: inotify says when that one ends, which is
// with the last descriptor or mapping of it, whichever comes later. (The first opening, ours, says nothing.)
Result<host::Descriptor> Registry::make_memory(File file, int flags) {
  file.ours = host::Descriptor(memfd_create(file.entry.name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.ours) return fail(host::last_error());
  file.entry.memory = file.ours.get();
  const std::string path = own_path(file.ours.get());
  const FileId id = TRY(id_of(file.ours.get()));
  const std::scoped_lock lock(mutex_);
  file.watch = inotify_add_watch(inotify_.get(), path.c_str(), IN_CLOSE_WRITE | IN_CLOSE_NOWRITE);
  if (file.watch < 0) return fail(host::last_error());
  host::Descriptor theirs(open(path.c_str(), (flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC));
  if (!theirs) {
    const Errno error = host::last_error();
    inotify_rm_watch(inotify_.get(), file.watch);
    return fail(error);
  }
  watched_[file.watch] = id;
  files_[id] = std::move(file);
  return theirs;
}

// One end of a pair: the other one hears when the last descriptor is gone. It is shut for writing, so that a program that
// reads from it finds an end and does not wait for ever.
Result<host::Descriptor> Registry::make_socket(File file) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return fail(host::last_error());
  file.ours = host::Descriptor(ends[0]);
  host::Descriptor theirs(ends[1]);
  shutdown(ends[0], SHUT_WR);
  const FileId id = TRY(id_of(theirs.get()));
  const std::scoped_lock lock(mutex_);
  epoll_event event = {.events = 0, .data = {.fd = ends[0]}};  // EPOLLHUP comes unasked
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, ends[0], &event) != 0) return fail(host::last_error());
  connected_[ends[0]] = id;
  files_[id] = std::move(file);
  return theirs;
}

std::optional<Registry::Entry> Registry::find(FileId id) const {
  const std::scoped_lock lock(mutex_);
  const auto file = files_.find(id);
  if (file == files_.end()) return std::nullopt;
  return file->second.entry;
}

void Registry::remove_locked(Files::iterator file) {
  if (file->second.watch >= 0) {
    watched_.erase(file->second.watch);
    inotify_rm_watch(inotify_.get(), file->second.watch);
  } else {
    connected_.erase(file->second.ours.get());
  }
  files_.erase(file);  // closes our end, which also leaves the epoll set
}

void Registry::forget(u64 handle) {
  const std::scoped_lock lock(mutex_);
  for (auto file = files_.begin(); file != files_.end(); ++file) {
    if (file->second.entry.handle == handle) return remove_locked(file);
  }
}

void Registry::take_inotify_locked(std::vector<u64>& closed) {
  alignas(inotify_event) std::array<char, 4096> room;
  for (;;) {
    const ssize_t n = read(inotify_.get(), room.data(), room.size());
    if (n <= 0) return;
    for (usize at = 0; at < static_cast<usize>(n);) {
      inotify_event event;
      std::memcpy(&event, room.data() + at, sizeof event);
      at += sizeof event + event.len;
      const auto watched = watched_.find(event.wd);
      if ((event.mask & (IN_CLOSE_WRITE | IN_CLOSE_NOWRITE)) == 0 || watched == watched_.end()) continue;
      const auto file = files_.find(watched->second);
      closed.push_back(file->second.entry.handle);
      remove_locked(file);
    }
  }
}

std::vector<u64> Registry::take_closed() {
  std::vector<u64> closed;
  std::array<epoll_event, 64> events;
  const std::scoped_lock lock(mutex_);
  for (;;) {
    const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    if (n <= 0) return closed;
    for (const epoll_event& event : std::span(events).first(static_cast<usize>(n))) {
      if (event.data.fd == inotify_.get()) {
        take_inotify_locked(closed);
        continue;
      }
      const auto connected = connected_.find(event.data.fd);
      if (connected == connected_.end() || (event.events & EPOLLHUP) == 0) continue;
      const auto file = files_.find(connected->second);
      closed.push_back(file->second.entry.handle);
      remove_locked(file);
    }
  }
}

}  // namespace perdure::intercept
