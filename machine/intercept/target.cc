#include "machine/intercept/target.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

#include "machine/host/host_files.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

namespace perdure::intercept {

namespace {

// process_vm_* and not /proc/PID/mem, which writes where the program itself may not.
using Transfer = ssize_t (*)(pid_t, const iovec*, unsigned long, const iovec*, unsigned long, unsigned long);

Result<void> transfer(Transfer way, s32 thread, void* here, u64 there, usize bytes) {
  for (usize done = 0; done < bytes;) {
    const iovec local = {static_cast<std::byte*>(here) + done, bytes - done};
    const iovec remote = {reinterpret_cast<void*>(there + done), bytes - done};
    const ssize_t n = way(thread, &local, 1, &remote, 1, 0);
    if (n <= 0) return fail(n < 0 && errno == EPERM ? Errno::Eperm : Errno::Efault);
    done += static_cast<usize>(n);
  }
  return {};
}

Result<FileId> id_at(int directory, const char* path) {
  struct stat st = {};
  if (fstatat(directory, path, &st, 0) != 0) {
    return fail(errno == EACCES || errno == EPERM ? Errno::Eperm : Errno::Ebadf);
  }
  return FileId{st.st_dev, st.st_ino};
}

bool is(int fd, FileId wanted) {
  struct stat st = {};
  return fstat(fd, &st) == 0 && FileId{st.st_dev, st.st_ino} == wanted;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

}  // namespace

std::optional<std::string> try_read_link(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  if (n >= 0) return std::string(target, static_cast<usize>(n));
  return errno == EINVAL ? std::optional<std::string>(std::in_place) : std::nullopt;
}

std::string read_link(const std::string& path) {
  return try_read_link(path).value_or(std::string());
}

Result<Target> Target::of(s32 thread) {
  char text[1024];
  const std::string path = "/proc/" + std::to_string(thread) + "/status";
  const host::Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail(Errno::Esrch);
  const ssize_t n = ::read(file.get(), text, sizeof text);
  const std::string_view status(text, n > 0 ? static_cast<usize>(n) : 0);
  constexpr std::string_view kField = "\nTgid:\t";
  const usize at = status.find(kField);
  s32 process = 0;
  if (at == std::string_view::npos) return fail(Errno::Esrch);
  const char* digits = status.data() + at + kField.size();
  if (std::from_chars(digits, status.data() + status.size(), process).ec != std::errc{}) return fail(Errno::Esrch);
  Target target(process, thread);
  host::Descriptor table(open(target.proc("fd").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (table) target.table_ = std::make_shared<const host::Descriptor>(std::move(table));
  return target;
}

Result<void> Target::read(std::span<std::byte> to, u64 from) const {
  return transfer(process_vm_readv, thread_, to.data(), from, to.size());
}

Result<void> Target::write(u64 to, std::span<const std::byte> from) const {
  return transfer(process_vm_writev, thread_, const_cast<std::byte*>(from.data()), to, from.size());
}

Result<std::string> Target::path(u64 from) const {
  constexpr u64 kPage = 4096;
  std::string text;
  char piece[kPage];
  while (text.size() < PATH_MAX) {
    // Not beyond the end of a page: the next one may not be there.
    const usize n = std::min<usize>(kPage - (from + text.size()) % kPage, PATH_MAX - text.size());
    TRY(read(std::as_writable_bytes(std::span(piece, n)), from + text.size()));
    if (const void* end = std::memchr(piece, 0, n)) {
      text.append(piece, static_cast<usize>(static_cast<const char*>(end) - piece));
      return text;
    }
    text.append(piece, n);
  }
  return fail(Errno::Enametoolong);
}

bool Target::is_current() const {
  return access(proc("").c_str(), F_OK) == 0;
}

std::string Target::proc(std::string_view file) const {
  char text[64];
  const int n = std::snprintf(text, sizeof text, "/proc/%d/task/%d/", process_, thread_);
  return std::string(text, static_cast<usize>(n)) += file;
}

Result<FileId> Target::file_id(s32 fd) const {
  if (fd < 0) return fail(Errno::Ebadf);
  const std::string number = std::to_string(fd);
  return table_ ? id_at(table_->get(), number.c_str()) : id_at(AT_FDCWD, proc("fd/" + number).c_str());
}

Result<host::Descriptor> Target::duplicate(s32 fd) const {
  const FileId wanted = TRY(file_id(fd));
  // A thread with descriptors of its own is named itself, where the kernel can do that (6.9); else its process.
  for (const bool own : {true, false}) {
    const host::Descriptor owner(static_cast<int>(own ? syscall(__NR_pidfd_open, thread_, PIDFD_THREAD)
                                                      : syscall(__NR_pidfd_open, process_, 0)));
    if (!owner) continue;
    host::Descriptor copy(static_cast<int>(syscall(__NR_pidfd_getfd, owner.get(), fd, 0)));
    if (copy && is(copy.get(), wanted)) return copy;
  }
  // Where that is forbidden (containers): memory can be opened a second time, which is as good.
  const std::string path = proc("fd/" + std::to_string(fd));
  struct stat st = {};
  const bool regular = stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
  for (const int access : {O_RDWR, O_RDONLY}) {
    if (!regular) break;
    host::Descriptor copy(open(path.c_str(), access | O_CLOEXEC));
    if (copy && is(copy.get(), wanted)) return copy;
  }
  // What is on a device or a pipe is not touched. Something of no use to anybody stands for it: it is open, and the
  // machine could do nothing with it.
  host::Descriptor any(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!any) return fail(host::last_error());
  return any;
}

Result<int> Target::flags(s32 fd) const {
  char text[256];
  const host::Descriptor file(open(proc("fdinfo/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t n = file ? ::read(file.get(), text, sizeof text) : -1;
  const std::string_view info(text, n > 0 ? static_cast<usize>(n) : 0);
  constexpr std::string_view kField = "flags:\t";
  const usize at = info.find(kField);
  int flags = 0;
  constexpr int kOctal = 8;
  if (at == std::string_view::npos ||
      std::from_chars(info.data() + at + kField.size(), info.data() + info.size(), flags, kOctal).ec != std::errc{}) {
    return fail(Errno::Ebadf);
  }
  return flags;
}

Result<void> Target::may_install() const {
  rlimit limit = {};
  if (prlimit(process_, RLIMIT_NOFILE, nullptr, &limit) != 0) return {};
  struct stat st = {};
  const std::string path = proc("fd");
  if (stat(path.c_str(), &st) != 0) return {};
  // Its size is how many are open, since Linux 6.2.
  if (st.st_size > 0 && static_cast<rlim_t>(st.st_size) < limit.rlim_cur) return {};
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(path.c_str()));
  if (!directory) return {};
  rlim_t below = 0;
  while (const dirent* entry = readdir(directory.get())) {
    rlim_t number = 0;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, number).ec == std::errc{} && number < limit.rlim_cur) ++below;
  }
  if (below >= limit.rlim_cur) return fail(Errno::Emfile);
  return {};
}

Result<std::string> Target::link(const std::string& name) const {
  std::string text = read_link(proc(name));
  if (text.empty()) return fail(Errno::Ebadf);
  return text;
}

}  // namespace perdure::intercept
