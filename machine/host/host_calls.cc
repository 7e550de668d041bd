#include "machine/host/host_calls.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "machine/host/host_files.h"

namespace perdure::host {

HostCalls::~HostCalls() {
  for (const auto& [at, mapping] : mappings_) {
    ::munmap(reinterpret_cast<void*>(at), mapping.length);  // NOLINT(performance-no-int-to-ptr)
  }
}

Result<HostCalls::Mapped> HostCalls::mapped_at(u64 at) {
  s32 fd = -1;
  Mapped found{};
  {
    const std::scoped_lock lock(mutex_);
    const auto next = mappings_.upper_bound(at);
    if (next == mappings_.begin()) return fail(Errno::Efault);
    const auto& [start, mapping] = *std::prev(next);
    if (at - start >= mapping.length) return fail(Errno::Efault);
    found.offset = mapping.offset + (at - start);
    found.length = start + mapping.length - at;
    fd = mapping.fd;
  }
  found.fd = TRY(host_fd(fd));
  return found;
}

Result<int> HostCalls::host_fd(s32 fd) {
  if (fd < kFirstKernelFd) return fd;
  const std::scoped_lock lock(mutex_);
  const auto found = installed_.find(fd);
  if (found == installed_.end()) return fail(Errno::Ebadf);
  return found->second.get();
}

void HostCalls::install(s32 fd, Descriptor host) {
  const std::scoped_lock lock(mutex_);
  installed_[fd] = std::move(host);
}

void HostCalls::uninstall(s32 fd) {
  const std::scoped_lock lock(mutex_);
  installed_.erase(fd);
}

Result<s32> HostCalls::memfd_create(std::string_view name) {
  const int fd = ::memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return fail(last_error());
  return fd;
}

Result<void> HostCalls::ftruncate(s32 fd, u64 bytes) {
  if (::ftruncate(TRY(host_fd(fd)), static_cast<off_t>(bytes)) != 0) return fail(last_error());
  return {};
}

Result<u64> HostCalls::file_size(s32 fd) {
  const off_t end = lseek(TRY(host_fd(fd)), 0, SEEK_END);
  if (end < 0) return fail(last_error());
  return static_cast<u64>(end);
}

Result<void> HostCalls::add_seals(s32 fd, u32 seals) {
  if (fcntl(TRY(host_fd(fd)), F_ADD_SEALS, seals) != 0) return fail(last_error());
  return {};
}

Result<u32> HostCalls::seals(s32 fd) {
  const int seals = fcntl(TRY(host_fd(fd)), F_GET_SEALS);
  if (seals < 0) return fail(last_error());
  return static_cast<u32>(seals);
}

Result<u64> HostCalls::memory_id(s32 fd) {
  return file_id(TRY(host_fd(fd)));
}

Result<std::byte*> HostCalls::mmap(s32 fd, u64 offset, u64 length) {
  void* at = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, TRY(host_fd(fd)),
                    static_cast<off_t>(offset));
  if (at == MAP_FAILED) return fail(last_error());
  const std::scoped_lock lock(mutex_);
  mappings_[reinterpret_cast<u64>(at)] = {length, fd, offset};
  return static_cast<std::byte*>(at);
}

Result<void> HostCalls::munmap(std::byte* at, u64 length) {
  {
    const std::scoped_lock lock(mutex_);
    if (mappings_.erase(reinterpret_cast<u64>(at)) == 0) return fail(Errno::Einval);
  }
  if (::munmap(at, length) != 0) return fail(last_error());
  return {};
}

Result<s32> HostCalls::eventfd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail(last_error());
  return fd;
}

Result<u64> HostCalls::eventfd_read(s32 fd) {
  u64 count = 0;
  if (::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) return count;
  if (errno == EAGAIN) return u64{0};
  return fail(last_error());
}

u64 HostCalls::now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec);
}

void HostCalls::pause() {
  poll(nullptr, 0, 1);
}

}  // namespace perdure::host
