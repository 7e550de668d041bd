#include "machine/host/remote_process.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>

#include "machine/host/host_files.h"

namespace perdure::host {

namespace {

// Linux 6.11: one mapping of /proc/PID/maps by address.
struct MapQuery {
  u64 size = sizeof(MapQuery);
  u64 query_flags = 0;
  u64 query_address = 0;
  u64 start = 0;
  u64 end = 0;
  u64 flags = 0;
  u64 page_size = 0;
  u64 offset = 0;
  u64 inode = 0;
  u32 device_major = 0;
  u32 device_minor = 0;
  u32 name_size = 0;
  u32 build_id_size = 0;
  u64 name_address = 0;
  u64 build_id_address = 0;
};
static_assert(sizeof(MapQuery) == 104);
constexpr unsigned long kMapQuery = _IOWR('f', 17, MapQuery);
constexpr u64 kReadable = 1, kWritable = 2, kShared = 8;

u64 next_number() {
  static std::atomic<u64> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

std::string path_of(pid_t process, const char* file) {
  return "/proc/" + std::to_string(process) + "/" + file;
}

Result<Descriptor> open_file(pid_t process, const char* file, int flags) {
  Descriptor fd(::open(path_of(process, file).c_str(), flags | O_CLOEXEC));
  if (fd) return fd;
  return fail(errno == EPERM ? Errno::Eacces : errno == ESRCH ? Errno::Enoent : last_error());
}

}  // namespace

RemoteProcess::RemoteProcess(pid_t process, Descriptor memory, Descriptor maps)
    : number_(next_number()), process_(process), memory_(std::move(memory)), maps_(std::move(maps)) {}

Result<std::shared_ptr<RemoteProcess>> RemoteProcess::open(pid_t process) {
  return adopt(process, TRY(open_file(process, "mem", O_RDWR)));
}

Result<std::shared_ptr<RemoteProcess>> RemoteProcess::adopt(pid_t process, Descriptor memory) {
  char name[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(memory.get());
  if (readlink(link.c_str(), name, sizeof name - 1) < 0) return fail(last_error());
  if (path_of(process, "mem") != name || (fcntl(memory.get(), F_GETFL) & O_ACCMODE) != O_RDWR) {
    return fail(Errno::Einval);
  }
  // Looking is allowed where accessing is not.
  Descriptor maps = TRY(open_file(process, "maps", O_RDONLY));
  return std::shared_ptr<RemoteProcess>(new RemoteProcess(process, std::move(memory), std::move(maps)));
}

bool RemoteProcess::alive() const {
  // Address 0 is never mapped: an error while there is memory, an end of file when there is none.
  char byte = 0;
  return pread(memory_.get(), &byte, 1, 0) != 0;
}

bool RemoteProcess::read(u64 from, std::span<std::byte> to) const {
  return pread(memory_.get(), to.data(), to.size(), static_cast<off_t>(from)) == static_cast<ssize_t>(to.size());
}

bool RemoteProcess::write(u64 to, std::span<const std::byte> from) const {
  return pwrite(memory_.get(), from.data(), from.size(), static_cast<off_t>(to)) == static_cast<ssize_t>(from.size());
}

Result<MappedRange> RemoteProcess::mapped_at(u64 address) const {
  MapQuery query;
  query.query_address = address;
  if (ioctl(maps_.get(), kMapQuery, &query) == 0) {
    return MappedRange{.start = query.start,
                       .end = query.end,
                       .offset = query.offset,
                       .inode = query.inode,
                       .device = makedev(query.device_major, query.device_minor),
                       .readable = (query.flags & kReadable) != 0,
                       .writable = (query.flags & kWritable) != 0,
                       .shared = (query.flags & kShared) != 0};
  }
  if (errno != ENOTTY) return fail(Errno::Enoent);
  return search(address);
}

Descriptor RemoteProcess::open_shared(const MappedRange& range) const {
  if (!range.shared || range.inode == 0) return {};
  char name[64];
  std::snprintf(name, sizeof name, "map_files/%llx-%llx", static_cast<unsigned long long>(range.start),
                static_cast<unsigned long long>(range.end));
  return Descriptor(::open(path_of(process_, name).c_str(), O_RDWR | O_CLOEXEC));
}

// The same from the text, on older hosts. The file's position is everybody's, so it is read at places of our own.
Result<MappedRange> RemoteProcess::search(u64 address) const {
  std::string text;
  char piece[4096];
  for (off_t at = 0;;) {
    const ssize_t n = pread(maps_.get(), piece, sizeof piece, at);
    if (n <= 0) break;
    text.append(piece, static_cast<usize>(n));
    at += n;
  }
  for (usize line = 0; line < text.size();) {
    const usize end = std::min(text.find('\n', line), text.size());
    char flags[5] = {};
    unsigned high = 0, low = 0;
    unsigned long long start = 0, stop = 0, offset = 0, inode = 0;
    if (std::sscanf(text.c_str() + line, "%llx-%llx %4s %llx %x:%x %llu", &start, &stop, flags, &offset, &high, &low,
                    &inode) == 7 &&
        start <= address && address < stop) {
      return MappedRange{.start = start,
                         .end = stop,
                         .offset = offset,
                         .inode = inode,
                         .device = makedev(high, low),
                         .readable = flags[0] == 'r',
                         .writable = flags[1] == 'w',
                         .shared = flags[3] == 's'};
    }
    line = end + 1;
  }
  return fail(Errno::Enoent);
}

}  // namespace perdure::host
