// Paths: opening, and looking without opening.
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/intercept/service.h"
#include "machine/intercept/syscall_names.h"

namespace perdure::intercept {

using Kind = Node::Kind;
using wire::Call;

namespace {

constexpr s32 kHighFds = 64;  // room from Machine::high_fd on

s32 directory_argument(u64 argument) {
  return static_cast<s32>(argument);
}

// Things that the machine can change, and that are asked for anew.
bool depends_on_devices(const std::string& path) {
  return path.starts_with("/sys/") || path.starts_with("/dev/vfio");
}

template <class T>
std::span<const std::byte> as_bytes(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

struct OpenArguments {
  s32 directory = AT_FDCWD;
  u64 path = 0;
  u64 flags = 0;
  u64 resolve = 0;
};

}  // namespace

Result<std::optional<Service::Look>> Service::look(const SystemCall& call, s32 directory, u64 path, bool follow) {
  const auto target = target_of(call);
  if (!target) return std::optional<Look>();
  // A bad address is the host's to complain about.
  const auto text = target->path(path);
  if (!text) return std::optional<Look>();
  return look(*target, directory, *text, follow);
}

Result<std::optional<Service::Look>> Service::look(const Target& target, s32 directory, const std::string& path,
                                                   bool follow) {
  Found found = TRY(machine_.paths.find(target, directory, path, follow));
  if (!found.ours()) return std::optional<Look>();
  if (depends_on_devices(found.path)) {
    TRY(refresh_devices());
    found = TRY(machine_.paths.find(target, directory, path, follow));
    if (!found.ours()) return std::optional<Look>();
  }
  return std::optional(Look{target, std::move(found)});
}

Result<Service::Outcome> Service::open(const SystemCall& call) {
  OpenArguments arguments;
  switch (call.number) {
    case __NR_open: arguments.path = call.args[0], arguments.flags = call.args[1] & 0xffffffff; break;
    case __NR_creat: arguments.path = call.args[0], arguments.flags = O_CREAT | O_WRONLY | O_TRUNC; break;
    case __NR_openat:
      arguments = {
          .directory = directory_argument(call.args[0]), .path = call.args[1], .flags = call.args[2] & 0xffffffff};
      break;
    default: {
      const auto target = target_of(call);
      const auto how = target ? target->read<open_how>(call.args[2]) : Result<open_how>(fail(Errno::Esrch));
      if (!how || call.args[3] < sizeof(open_how)) return resume();
      arguments = {.directory = directory_argument(call.args[0]),
                   .path = call.args[1],
                   .flags = how->flags,
                   .resolve = how->resolve};
      if ((how->resolve & RESOLVE_IN_ROOT) != 0) return resume();  // not from the root that it has
    }
  }
  const int flags = static_cast<int>(arguments.flags);
  const bool follow = (flags & O_NOFOLLOW) == 0 && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  const auto seen = TRY(look(call, arguments.directory, arguments.path, follow));
  if (!seen) return resume();
  const Found& found = seen->found;
  if ((arguments.resolve & RESOLVE_NO_SYMLINKS) != 0 && found.by_link) return fail(Errno::Eloop);
  if ((arguments.resolve & RESOLVE_BENEATH) != 0) return fail(Errno::Exdev);
  if (found.status_of != 0) return open_status(call, found.status_of, flags);
  if (found.open_file) {
    if ((flags & (O_NOFOLLOW | O_PATH)) != 0) return resume();
    if ((arguments.resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS)) != 0) return fail(Errno::Eloop);
    // A node is opened once more; what has no node cannot be opened.
    if (found.open_file->path.empty()) return fail(Errno::Enxio);
    if (!found.open_file->orders) return open_device(call, seen->target, found.open_file->path, flags);
    return open_shadow(call, {.path = found.open_file->path, .node = machine_.shadow->find(found.open_file->path)},
                       flags);
  }
  if (found.node.kind == Kind::Absent) {
    // Which groups and devices there are is the kernel's to say.
    if (found.path.starts_with("/dev/vfio/")) return open_device(call, seen->target, found.path, flags);
    return fail((flags & O_CREAT) != 0 ? Errno::Eacces : Errno::Enoent);
  }
  if (found.node.kind == Kind::Device && (flags & O_PATH) == 0) {
    return open_device(call, seen->target, found.path, flags);
  }
  return open_shadow(call, found, flags);
}

Result<Service::Outcome> Service::open_device(const SystemCall& call, const Target& target, const std::string& path,
                                              int flags) {
  if ((flags & O_DIRECTORY) != 0) return fail(Errno::Enotdir);
  if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) return fail(Errno::Eexist);
  TRY(target.may_install());
  const wire::Message opened = TRY(kernel(Call::Open, call, target, {.b = static_cast<u64>(flags)}, path));
  const std::string name(reinterpret_cast<const char*>(opened.payload.data()), opened.payload.size());
  auto theirs = machine_.registry->make(opened.head.a, name, path, flags);
  if (!theirs) {
    TRY(link_.call(Call::Close, {.a = opened.head.a}));
    return fail(theirs.error());
  }
  // When it cannot be given to the program it is closed with `theirs`, as any other.
  return give(call, theirs->get(), flags);
}

// Where files stand that take orders: the filter shows writes there.
s32 Service::place_for_orders(const Target& target) const {
  const s32 first = static_cast<s32>(machine_.high_fd);
  for (s32 at = first; at < first + kHighFds; ++at) {
    if (!target.file_id(at)) return at;
  }
  return -1;
}

Result<Service::Outcome> Service::open_shadow(const SystemCall& call, const Found& found, int flags) {
  const int access = flags & O_ACCMODE;
  if (found.node.kind == Kind::Link && (flags & O_PATH) == 0) return fail(Errno::Eloop);
  if (found.node.kind == Kind::File && access != O_RDONLY && (flags & O_PATH) == 0) {
    if ((found.node.mode & 0222) == 0) return fail(Errno::Eacces);
    if ((flags & O_DIRECTORY) != 0) return fail(Errno::Enotdir);
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return fail(Errno::Eexist);
    const Target target = TRY(target_of(call));
    TRY(target.may_install());
    const host::Descriptor theirs =
        TRY(machine_.registry->make_orders(found.path, access == O_RDWR ? found.node.text : std::string(), flags));
    return give(call, theirs.get(), flags, place_for_orders(target));
  }
  constexpr int kNotForUs = O_CREAT | O_TRUNC | O_CLOEXEC;
  if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return fail(Errno::Eexist);
  const host::Descriptor file(::open(machine_.shadow->place_of(found.path).c_str(), (flags & ~kNotForUs) | O_CLOEXEC));
  if (!file) return fail(host::last_error());
  return give(call, file.get(), flags);
}

Result<Service::Outcome> Service::give(const SystemCall& call, int fd, int flags, s32 at) {
  const bool cloexec = (flags & O_CLOEXEC) != 0;
  if (at >= 0) {
    // Above its limit: then like any other.
    if (const auto number = answers_->add_fd(call, fd, cloexec, at)) return value(*number);
  }
  return value(TRY(answers_->add_fd(call, fd, cloexec)));
}

// --- looking
// -----------------------------------------------------------------------------------------------------------

Result<Service::Outcome> Service::stat(const SystemCall& call) {
  const bool by_descriptor_only = call.number == __NR_fstat;
  const bool at = call.number == __NR_newfstatat || call.number == __NR_statx;
  const u64 flags = call.number == __NR_newfstatat ? call.args[3] : call.number == __NR_statx ? call.args[2] : 0;
  const u64 path = by_descriptor_only ? 0 : at ? call.args[1] : call.args[0];
  bool empty = by_descriptor_only;
  if (!empty && (flags & AT_EMPTY_PATH) != 0) {
    const auto target = target_of(call);
    if (!target) return resume();
    const auto first = path == 0 ? Result<char>('\0') : target->read<char>(path);
    empty = first && *first == '\0';
  }
  if (empty) {
    const auto ours = file_of(call, call.fd());
    if (!ours || ours->file.path.empty()) return resume();
    return stat_found(call, ours->target, ours->file.path, machine_.shadow->find(ours->file.path));
  }
  const bool follow = call.number != __NR_lstat && (flags & AT_SYMLINK_NOFOLLOW) == 0;
  const auto seen = TRY(look(call, at ? directory_argument(call.args[0]) : AT_FDCWD, path, follow));
  if (!seen) return resume();
  const Found& found = seen->found;
  if (found.status_of != 0) return resume();
  if (found.open_file) {
    if (!follow || found.open_file->path.empty()) return resume();
    return stat_found(call, seen->target, found.open_file->path, machine_.shadow->find(found.open_file->path));
  }
  if (found.node.kind == Kind::Absent) return fail(Errno::Enoent);
  return stat_found(call, seen->target, found.path, found.node);
}

Result<Service::Outcome> Service::stat_found(const SystemCall& call, const Target& target, const std::string& path,
                                             const Node& node) {
  const std::string place = machine_.shadow->place_of(path);
  const bool device = node.kind == Kind::Device;
  // In sysfs every text file is a page long.
  const bool attribute = node.kind == Kind::File && !path.ends_with("/config");
  constexpr u64 kPage = 4096;
  if (call.number == __NR_statx) {
    struct statx result = {};
    if (::statx(AT_FDCWD, place.c_str(), AT_SYMLINK_NOFOLLOW, static_cast<unsigned>(call.args[3]), &result) != 0) {
      return fail(host::last_error());
    }
    if (device) {
      result.stx_mode = static_cast<u16>(S_IFCHR | node.mode);
      result.stx_rdev_major = node.major;
      result.stx_rdev_minor = node.minor;
    } else if (node.kind == Kind::File) {
      result.stx_mode = static_cast<u16>(S_IFREG | node.mode);
    }
    if (attribute) result.stx_size = kPage;
    TRY(target.write(call.args[4], as_bytes(result)));
    return value(0);
  }
  struct stat result = {};
  if (::lstat(place.c_str(), &result) != 0) return fail(host::last_error());
  if (device) {
    result.st_mode = S_IFCHR | node.mode;
    result.st_rdev = makedev(node.major, node.minor);
  } else if (node.kind == Kind::File) {
    result.st_mode = S_IFREG | node.mode;
  }
  if (attribute) result.st_size = kPage;
  const u64 to = call.number == __NR_newfstatat ? call.args[2] : call.args[1];
  TRY(target.write(to, as_bytes(result)));
  return value(0);
}

Result<Service::Outcome> Service::access(const SystemCall& call) {
  const bool at = call.number != __NR_access;
  const u64 flags = call.number == kFaccessat2 ? call.args[3] : 0;
  const auto mode = static_cast<u32>(at ? call.args[2] : call.args[1]);
  const auto seen = TRY(look(call, at ? directory_argument(call.args[0]) : AT_FDCWD, at ? call.args[1] : call.args[0],
                             (flags & AT_SYMLINK_NOFOLLOW) == 0));
  if (!seen || seen->found.open_file || seen->found.status_of != 0) return resume();
  if (seen->found.node.kind == Kind::Absent) return fail(Errno::Enoent);
  if ((mode & ~u32{R_OK | W_OK | X_OK}) != 0) return fail(Errno::Einval);
  // Permissions are those of the one user that the machine has.
  const u32 owner = seen->found.node.mode >> 6;
  return (mode & ~owner) != 0 ? Result<Outcome>(fail(Errno::Eacces)) : Result<Outcome>(value(0));
}

Result<Service::Outcome> Service::readlink(const SystemCall& call) {
  const bool at = call.number == __NR_readlinkat;
  const u64 path = at ? call.args[1] : call.args[0];
  const u64 to = at ? call.args[2] : call.args[1];
  const s32 room = static_cast<s32>(at ? call.args[3] : call.args[2]);
  const auto seen = TRY(look(call, at ? directory_argument(call.args[0]) : AT_FDCWD, path, false));
  if (!seen || seen->found.status_of != 0) return resume();
  if (room <= 0) return fail(Errno::Einval);
  const Found& found = seen->found;
  std::string text;
  if (found.open_file) {
    text = found.open_file->path.empty() ? found.open_file->name : found.open_file->path;
  } else if (found.node.kind == Kind::Absent) {
    return fail(Errno::Enoent);
  } else if (found.node.kind != Kind::Link) {
    return fail(Errno::Einval);
  } else {
    text = found.node.text;
  }
  text.resize(std::min<usize>(text.size(), static_cast<usize>(room)));
  TRY(seen->target.write(to, std::as_bytes(std::span(text))));
  return value(static_cast<s64>(text.size()));
}

}  // namespace perdure::intercept
