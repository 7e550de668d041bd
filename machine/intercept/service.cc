#include "machine/intercept/service.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "machine/intercept/filter.h"
#include "machine/intercept/syscall_names.h"
#include "machine/intercept/task_questions.h"

namespace perdure::intercept {

using wire::Call;

namespace {
constexpr u32 kGetRegionInfo = 0x3b6c;  // VFIO_DEVICE_GET_REGION_INFO
// More than that no system call transfers.
constexpr u64 kMostBytes = 0x7ffff000;
constexpr u64 kMostVectors = 1024;
constexpr usize kPage = 4096;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
// What Call::SysfsWrite takes.
std::string order_of(std::string path, std::string_view text) {
  path += '\0';
  return std::move(path.append(text));
}
}  // namespace

Result<void> Service::serve(const SystemCall& call) {
  lendable_ = false;
  const Result<Outcome> outcome = dispatch(call);
  if (machine_.log) write_log(call, outcome);
  if (!outcome) {
    if (outcome.error() != Errno::Ekilled) {
      answers_->refuse(call, outcome.error());
      return {};
    }
    // The caller is gone, or the kernel.
    return answers_->waits(call) ? Result<void>(fail(Errno::Ekilled)) : Result<void>();
  }
  if (outcome->kind == Outcome::Kind::Resume) {
    answers_->resume(call);
  } else {
    answers_->answer(call, outcome->value);
  }
  return {};
}

Result<Service::Outcome> Service::dispatch(const SystemCall& call) {
  switch (call.number) {
    case __NR_ioctl: return ioctl(call);
    case __NR_open:
    case __NR_creat:
    case __NR_openat:
    case __NR_openat2: return open(call);
    case __NR_pread64:
    case __NR_pwrite64: return positioned(call);
    case __NR_preadv:
    case __NR_preadv2:
    case __NR_pwritev:
    case __NR_pwritev2: return vectored(call);
    case __NR_mmap: return mmap(call);
    case __NR_write: return order(call);
    case __NR_writev: return order_vector(call);
    case __NR_eventfd:
    case __NR_eventfd2: return eventfd(call);
    case __NR_stat:
    case __NR_lstat:
    case __NR_fstat:
    case __NR_newfstatat:
    case __NR_statx: return stat(call);
    case __NR_access:
    case __NR_faccessat:
    case kFaccessat2: return access(call);
    case __NR_readlink:
    case __NR_readlinkat: return readlink(call);
    case __NR_kexec_load:
    case __NR_kexec_file_load: return kexec_load(call);
    case __NR_reboot: return reboot(call);
    default: return resume();
  }
}

void Service::write_log(const SystemCall& call, const Result<Outcome>& outcome) const {
  if (outcome && outcome->kind == Outcome::Kind::Resume) return;
  char line[200];
  int n =
      std::snprintf(line, sizeof line, "%d %s(0x%llx, 0x%llx, 0x%llx, 0x%llx) = ", call.tid, syscall_name(call.number),
                    static_cast<unsigned long long>(call.args[0]), static_cast<unsigned long long>(call.args[1]),
                    static_cast<unsigned long long>(call.args[2]), static_cast<unsigned long long>(call.args[3]));
  std::string text(line, static_cast<usize>(n));
  text += outcome ? std::to_string(outcome->value) : std::string(errno_name(outcome.error()));
  machine_.log(text);
}

Result<Target> Service::target_of(const SystemCall& call) {
  Target known = TRY(machine_.processes->target(call.tid));
  if (known.is_current()) return known;
  return machine_.processes->target_again(call.tid);
}

// The identity is looked up for every call: nothing that a program does with its descriptors needs to be seen.
std::optional<Service::Ours> Service::file_of(const SystemCall& call, s32 fd) {
  auto target = machine_.processes->target(call.tid);
  if (!target) return std::nullopt;
  auto id = target->file_id(fd);
  if (!id) {
    // No such descriptor; or the thread is of another process than it once was.
    target = machine_.processes->target_again(call.tid);
    if (!target) return std::nullopt;
    id = target->file_id(fd);
    if (!id) return std::nullopt;
  }
  auto file = machine_.registry->find(*id);
  if (!file) return std::nullopt;
  return Ours{*target, std::move(*file)};
}

Result<wire::Message> Service::kernel(Call op, const SystemCall& call, const Target& target, wire::Header head,
                                      std::string_view payload, int fd) {
  // What was closed before this call is closed for the kernel, too: names and devices are free again.
  TRY(pass_on_closes());
  machine_.processes->watch(target.process());
  head.task = target.number();
  TaskQuestions questions(*answers_, *machine_.registry, machine_.events, call, target);
  return link_.call(op, head, bytes_of(payload), &questions, slow_, fd);
}

Result<void> Service::refresh_devices() {
  TRY(pass_on_closes());  // orders to sysfs come first
  const u64 question = machine_.shadow->ask();
  std::string text;
  bool next_is_loaded = false;
  for (bool whole = false; !whole;) {
    const auto piece = link_.call(Call::Devices, {.a = text.size()});
    if (!piece) return piece.error() == Errno::Ekilled ? Result<void>(fail(Errno::Ekilled)) : Result<void>();
    if (text.empty()) next_is_loaded = piece->head.b != 0;
    text.append(reinterpret_cast<const char*>(piece->payload.data()), piece->payload.size());
    whole = text.size() >= piece->head.a || piece->payload.empty();
  }
  if (!machine_.shadow->update(question, text, next_is_loaded) && machine_.log) {
    machine_.log("the kernel's list of devices cannot be read");
  }
  return {};
}

void Machine::end_loans() {
  const std::scoped_lock lock(loans_mutex);
  for (const wire::LentTurn* turn : loans) turn->revoke();
}

Result<void> Service::pass_on_closes() {
  std::unique_lock lock(machine_.closing, std::try_to_lock);
  if (!lock) {
    slow_();
    lock.lock();
  }
  if (machine_.over) return {};
  // What is taken here cannot be seen any more by a kernel that has the turn.
  machine_.end_loans();
  const Registry::Events events = machine_.registry->take_events();
  for (const u64 handle : events.closed) {
    if (machine_.log) machine_.log("last close of " + std::to_string(handle));
    const auto closed = link_.call(Call::Close, {.a = handle});
    if (!closed && closed.error() == Errno::Ekilled) return fail(Errno::Ekilled);
  }
  for (const auto& [path, text] : events.orders) {
    const auto obeyed = link_.call(Call::SysfsWrite, {}, bytes_of(order_of(path, text)));
    if (!obeyed && obeyed.error() == Errno::Ekilled) return fail(Errno::Ekilled);
    if (!obeyed && machine_.log) machine_.log(path + ": " + std::string(errno_name(obeyed.error())));
  }
  for (const s32 process : machine_.processes->take_gone()) {
    const u32 number = static_cast<u32>(process);
    const auto told = link_.call(Call::TaskExit, {.task = wire::task_of(number, number)});
    if (!told && told.error() == Errno::Ekilled) return fail(Errno::Ekilled);
  }
  return {};
}

Result<Service::Outcome> Service::ioctl(const SystemCall& call) {
  const u32 cmd = static_cast<u32>(call.args[1]);
  if (cmd == kKvmSetDeviceAttr) return kvm_attribute(call);
  const auto ours = file_of(call, call.fd());
  if (!ours || ours->file.orders) return resume();
  lendable_ = true;
  const u64 without = cmd == kGetRegionInfo && !traps(ours->target) ? wire::kNoRegisters : 0;
  const wire::Message m =
      TRY(kernel(Call::Ioctl, call, ours->target, {.a = ours->file.handle, .b = cmd, .c = call.args[2], .d = without}));
  return value(static_cast<s64>(m.head.a));
}

// A hypervisor tells the host's KVM about our device, which KVM does not know: there is nothing that KVM has to do for
// it.
Result<Service::Outcome> Service::kvm_attribute(const SystemCall& call) {
  struct Attribute {
    u32 flags;
    u32 group;
    u64 attribute;
    u64 address;
  };
  constexpr u32 kVfioFile = 1;
  const Target target = TRY(target_of(call));
  const auto attribute = target.read<Attribute>(call.args[2]);
  if (!attribute || attribute->group != kVfioFile) return resume();
  if (target.link("fd/" + std::to_string(call.fd())).value_or("") != "anon_inode:kvm-vfio") return resume();
  const auto fd = target.read<s32>(attribute->address);
  if (!fd || !file_of(call, *fd)) return resume();
  return value(0);
}

Result<Service::Outcome> Service::transfer(const SystemCall& call, const Ours& ours, u64 address, u64 bytes,
                                           u64 position, bool write) {
  if (ours.file.access == (write ? O_RDONLY : O_WRONLY)) return fail(Errno::Ebadf);
  const wire::Message m =
      TRY(kernel(write ? Call::Write : Call::Read, call, ours.target,
                 {.a = ours.file.handle, .b = std::min(bytes, kMostBytes), .c = position, .d = address}));
  return value(static_cast<s64>(m.head.a));
}

Result<Service::Outcome> Service::positioned(const SystemCall& call) {
  const u64 position = call.args[3];
  if (static_cast<s64>(position) < static_cast<s64>(kOurPositions)) {
    // A write to where sysfs's files stand. The host says what is wrong with a position below zero.
    return call.number == __NR_pwrite64 && position == 0 ? order(call) : resume();
  }
  const auto ours = file_of(call, call.fd());
  if (!ours || !ours->file.mappable) return resume();
  lendable_ = ours->file.access == O_RDWR;
  return transfer(call, *ours, call.args[1], call.args[2], position, call.number == __NR_pwrite64);
}

Result<Service::Outcome> Service::vectored(const SystemCall& call) {
  const u64 position = call.args[3];
  if (static_cast<s64>(position) < static_cast<s64>(kOurPositions)) return resume();
  const auto ours = file_of(call, call.fd());
  if (!ours || !ours->file.mappable) return resume();
  const bool write = call.number == __NR_pwritev || call.number == __NR_pwritev2;
  if (call.args[2] > kMostVectors) return fail(Errno::Einval);
  std::vector<iovec> pieces(call.args[2]);
  TRY(ours->target.read(std::as_writable_bytes(std::span(pieces)), call.args[1]));
  u64 done = 0;
  for (const iovec& piece : pieces) {
    const auto moved =
        transfer(call, *ours, reinterpret_cast<u64>(piece.iov_base), piece.iov_len, position + done, write);
    if (!moved) {
      if (done != 0 && moved.error() != Errno::Ekilled) break;
      return moved;
    }
    done += static_cast<u64>(moved->value);
    if (static_cast<u64>(moved->value) != piece.iov_len) break;
  }
  return value(static_cast<s64>(done));
}

bool Service::traps(const Target& target) const {
  if (!machine_.tracer) return false;
  const auto others = machine_.tracer->traced_by_others(target.process());
  return others && !*others;
}

// The kernel says whether there is something to map; what is mapped is the file that the program has. Memory of a
// device is in that file from now on; of registers there is nothing in it, and each access is a signal.
Result<Service::Outcome> Service::mmap(const SystemCall& call) {
  const s32 fd = static_cast<s32>(call.args[4]);
  const auto ours = file_of(call, fd);
  if (!ours || !ours->file.mappable) return resume();
  // A private copy of what a device has would be none.
  const u64 kind = call.args[3] & MAP_TYPE;
  if (kind != MAP_SHARED && kind != MAP_SHARED_VALIDATE) return fail(Errno::Einval);
  const wire::Message m = TRY(kernel(Call::Mmap, call, ours->target,
                                     {.a = ours->file.handle,
                                      .b = call.args[1],
                                      .c = call.args[5],
                                      .d = (call.args[2] & 0xffffffff) | call.args[3] << 32},
                                     {}, ours->file.memory));
  if (m.head.a == static_cast<u64>(wire::Mapping::Memory)) return resume();
  if (!machine_.tracer) return fail(Errno::Einval);
  const s32 process = ours->target.process();
  if (const auto followed = machine_.tracer->follow(process); !followed) {
    if (machine_.log) {
      machine_.log(std::to_string(process) + ": its accesses to mapped registers cannot be carried out (" +
                   std::string(errno_name(followed.error())) +
                   "): a debugger or strace has it; run that around perdure instead, or use --mmio=off");
    }
    return fail(Errno::Einval);
  }
  return resume();
}

Result<s64> Service::obey(const SystemCall& call, const Ours& ours, const std::string& text) {
  if (ours.file.access == O_RDONLY) return fail(Errno::Ebadf);
  TRY(kernel(Call::SysfsWrite, call, ours.target, {}, order_of(ours.file.path, text)));
  return static_cast<s64>(text.size());
}

Result<Service::Outcome> Service::order(const SystemCall& call) {
  const auto ours = file_of(call, call.fd());
  if (!ours || !ours->file.orders) return resume();
  std::string text(std::min<u64>(call.args[2], kPage), '\0');  // no attribute takes more
  TRY(ours->target.read(std::as_writable_bytes(std::span(text)), call.args[1]));
  return value(TRY(obey(call, *ours, text)));
}

Result<Service::Outcome> Service::order_vector(const SystemCall& call) {
  const auto ours = file_of(call, call.fd());
  if (!ours || !ours->file.orders) return resume();
  if (call.args[2] > kMostVectors) return fail(Errno::Einval);
  std::vector<iovec> pieces(call.args[2]);
  TRY(ours->target.read(std::as_writable_bytes(std::span(pieces)), call.args[1]));
  s64 done = 0;
  // Every piece is a write of its own, as in sysfs.
  for (const iovec& piece : pieces) {
    if (piece.iov_len == 0) continue;
    std::string text(std::min<usize>(piece.iov_len, kPage), '\0');
    TRY(ours->target.read(std::as_writable_bytes(std::span(text)), reinterpret_cast<u64>(piece.iov_base)));
    const auto obeyed = obey(call, *ours, text);
    if (!obeyed)
      return done != 0 && obeyed.error() != Errno::Ekilled ? Result<Outcome>(value(done)) : fail(obeyed.error());
    done += *obeyed;
  }
  return value(done);
}

Result<Service::Outcome> Service::eventfd(const SystemCall& call) {
  const int flags = call.number == __NR_eventfd2 ? static_cast<int>(call.args[1]) : 0;
  const Target target = TRY(target_of(call));
  TRY(target.may_install());
  const host::Descriptor made = TRY(machine_.events.make(static_cast<u32>(call.args[0]), flags));
  return give(call, made.get(), flags);
}

}  // namespace perdure::intercept
