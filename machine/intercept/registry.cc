#include "machine/intercept/registry.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "machine/host/host_files.h"
#include "machine/wire/syscall_protocol.h"

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

Result<host::Descriptor> Registry::make(u64 handle, const std::string& name, const std::string& path, int flags) {
  File file;
  file.entry = {
      .handle = handle, .name = name, .path = path, .access = flags & O_ACCMODE, .mappable = has_memory(name)};
  return file.entry.mappable ? make_memory(std::move(file), {}, flags) : make_socket(std::move(file));
}

Result<host::Descriptor> Registry::make_orders(const std::string& path, const std::string& text, int flags) {
  File file;
  file.entry = {.handle = wire::kNoHandle, .name = path, .path = path, .access = flags & O_ACCMODE, .orders = true};
  return make_memory(std::move(file), text, flags);
}

// A memfd of its own for every open. The program gets a second opening of it: inotify says when that one ends, which is
// with the last descriptor or mapping of it, whichever comes later. (The first opening, ours, says nothing.)
Result<host::Descriptor> Registry::make_memory(File file, const std::string& text, int flags) {
  const std::string& name = file.entry.path.empty() ? file.entry.name : file.entry.path;
  file.ours = host::Descriptor(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.ours) return fail(host::last_error());
  if (write(file.ours.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return fail(Errno::Enomem);
  file.entry.memory = file.ours.get();
  const std::string path = own_path(file.ours.get());
  const FileId id = TRY(id_of(file.ours.get()));
  const std::scoped_lock lock(mutex_);
  constexpr u32 kClosed = IN_CLOSE_WRITE | IN_CLOSE_NOWRITE;
  file.watch = inotify_add_watch(inotify_.get(), path.c_str(), file.entry.orders ? kClosed | IN_MODIFY : kClosed);
  if (file.watch < 0) return fail(host::last_error());
  host::Descriptor theirs(open(path.c_str(), (flags & (O_ACCMODE | O_NONBLOCK | O_APPEND)) | O_CLOEXEC));
  if (!theirs) {
    const Errno error = host::last_error();
    inotify_rm_watch(inotify_.get(), file.watch);
    return fail(error);
  }
  watched_[file.watch] = id;
  files_[id] = std::move(file);
  return theirs;
}

// One end of a pair: the other one hears when the last descriptor is gone. It is shut for writing, so that a program
// that reads from it finds an end and does not wait for ever.
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

std::vector<wire::LentFile> Registry::lent_files(usize most) const {
  std::vector<wire::LentFile> all;
  const std::scoped_lock lock(mutex_);
  all.reserve(std::min(most, files_.size()));
  for (const auto& [id, file] : files_) {
    if (all.size() == most) break;
    if (file.entry.orders) continue;
    const bool positions = file.entry.mappable && file.entry.access == O_RDWR;
    all.push_back({.device = id.device,
                   .inode = id.inode,
                   .handle = file.entry.handle,
                   .positions = positions ? u64{1} : u64{0}});
  }
  return all;
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

// Descriptors of sysfs files are numbers from which on the filter shows writes. A shell moves them to others; what it
// writes then is found in the file: a line is an order.
void Registry::take_orders_locked(File& file, Events& events) const {
  std::array<char, 4096> room;
  const ssize_t n = pread(file.ours.get(), room.data(), room.size(), static_cast<off_t>(file.obeyed));
  std::string_view text(room.data(), n > 0 ? static_cast<usize>(n) : 0);
  file.obeyed += text.size();
  while (!text.empty()) {
    const usize end = std::min(text.find('\n'), text.size());
    if (end > 0) events.orders.push_back({file.entry.path, std::string(text.substr(0, end)) + "\n"});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void Registry::take_inotify_locked(Events& events) {
  alignas(inotify_event) std::array<char, 4096> room;
  for (;;) {
    const ssize_t n = read(inotify_.get(), room.data(), room.size());
    if (n <= 0) return;
    for (usize at = 0; at < static_cast<usize>(n);) {
      inotify_event event;
      std::memcpy(&event, room.data() + at, sizeof event);
      at += sizeof event + event.len;
      const auto watched = watched_.find(event.wd);
      if (watched == watched_.end()) continue;
      const auto file = files_.find(watched->second);
      if ((event.mask & IN_MODIFY) != 0) {
        struct stat st = {};
        const bool cut =
            fstat(file->second.ours.get(), &st) == 0 && static_cast<usize>(st.st_size) < file->second.obeyed;
        if (cut) file->second.obeyed = 0;
        take_orders_locked(file->second, events);
      }
      if ((event.mask & (IN_CLOSE_WRITE | IN_CLOSE_NOWRITE)) == 0) continue;
      if (!file->second.entry.orders) events.closed.push_back(file->second.entry.handle);
      remove_locked(file);
    }
  }
}

Registry::Events Registry::take_events() {
  Events happened;
  std::array<epoll_event, 64> ready;
  const std::scoped_lock lock(mutex_);
  for (;;) {
    const int n = epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), 0);
    if (n <= 0) return happened;
    for (const epoll_event& event : std::span(ready).first(static_cast<usize>(n))) {
      if (event.data.fd == inotify_.get()) {
        take_inotify_locked(happened);
        continue;
      }
      const auto connected = connected_.find(event.data.fd);
      if (connected == connected_.end() || (event.events & EPOLLHUP) == 0) continue;
      const auto file = files_.find(connected->second);
      happened.closed.push_back(file->second.entry.handle);
      remove_locked(file);
    }
  }
}

}  // namespace perdure::intercept
