#include "machine/process/local_program.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "machine/host/host_files.h"
#include "machine/host/memory_access.h"
#include "machine/process/wrapped_file.h"

namespace perdure::process {

namespace {
host::Descriptor duplicate(int fd) {
  return host::Descriptor(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}
}  // namespace

LocalProgram::~LocalProgram() {
  if (machine_.jumped()) kill();
  if (!killed_) process_->end();
}

void LocalProgram::kill() {
  killed_ = true;
  fds_.abandon();
  static_cast<void>(process_.release());  // its kernel's end is its end
}

Result<void> LocalProgram::enter() {
  if (killed_ || machine_.jumped()) return fail(Errno::Ekilled);
  machine_.deliver_interrupts();
  kernel_.service();
  return {};
}

Result<s32> LocalProgram::open(std::string_view path) {
  TRY(enter());
  FdSlot slot = TRY(FdSlot::reserve(*this));
  Ref<File> file = TRY(kernel_.open(path));
  const s32 number = slot.number();
  slot.install(std::move(file));
  return number;
}

Result<void> LocalProgram::close(s32 fd) {
  if (fd >= 0 && fd < host::kFirstKernelFd) {
    if (::close(fd) != 0) return fail(host::last_error());
    return {};
  }
  TRY(enter());
  TRY(fds_.close(fd));
  uninstall(fd);
  return {};
}

Result<u64> LocalProgram::ioctl(s32 fd, u32 cmd, void* arg) {
  TRY(enter());
  const Ref<File> target = TRY(file(fd));
  return target->ioctl(*this, cmd, UserAddr(reinterpret_cast<u64>(arg)));
}

Result<usize> LocalProgram::pread(s32 fd, void* to, usize bytes, u64 pos) {
  TRY(enter());
  const Ref<File> target = TRY(file(fd));
  return target->read(*this, UserAddr(reinterpret_cast<u64>(to)), bytes, pos);
}

Result<usize> LocalProgram::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  TRY(enter());
  const Ref<File> target = TRY(file(fd));
  return target->write(*this, UserAddr(reinterpret_cast<u64>(from)), bytes, pos);
}

void LocalProgram::pause() {
  if (board_.running()) {
    host::HostCalls::pause();
  } else {
    board_.step();
  }
  if (!machine_.jumped()) machine_.deliver_interrupts();
}

Result<void> LocalProgram::kexec_load(std::string_view kernel) {
  TRY(enter());
  return kernel_.kexec_load(kernel);
}

Result<void> LocalProgram::kexec() {
  TRY(enter());
  return kernel_.kexec();
}

Result<void> LocalProgram::copy_in(std::span<std::byte> to, UserAddr from) {
  return host::read_memory(to, from.value);
}

Result<void> LocalProgram::copy_out(UserAddr to, std::span<const std::byte> from) {
  return host::write_memory(to.value, from);
}

Result<void> LocalProgram::resolve(UserAddr at, u64 length, Access access,
                                   FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  for (u64 done = 0; done < length;) {
    const auto mapped = mapped_at(at.value + done);
    if (!mapped) {
      done += TRY(resolve_native(at.value + done, length - done, access, piece));
      continue;
    }
    const Ref<File> wrapped = TRY(wrap(duplicate(mapped->fd)));
    auto* memory = file_cast<SharedMemory>(wrapped.get());
    if (!memory) return fail(Errno::Efault);
    const u64 n = std::min(mapped->length, length - done);
    TRY(piece(Ref<SharedMemory>(memory), mapped->offset, n));
    done += n;
  }
  return {};
}

Result<u64> LocalProgram::resolve_native(u64 at, u64 length, Access access,
                                         FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  if (!self_) self_ = TRY(host::RemoteProcess::open(getpid()));
  const auto range = self_->mapped_at(at);
  if (!range || !range->readable || (includes(access, Access::Write) && !range->writable)) return fail(Errno::Efault);
  const u64 n = std::min(length, range->end - at);
  if (host::Descriptor file = self_->open_shared(*range)) {
    const Ref<File> wrapped = TRY(wrap(std::move(file)));
    if (auto* memory = file_cast<SharedMemory>(wrapped.get())) {
      TRY(piece(Ref<SharedMemory>(memory), range->offset + (at - range->start), n));
      return n;
    }
  }
  std::byte probe{};
  if (!self_->read(at, {&probe, 1})) return fail(Errno::Efault);  // the host's kernel's own
  TRY(piece(TRY(kernel_.host_files().memory(Ref<HostMemory>(
                Ref<host::RemoteMemory>::adopt(new host::RemoteMemory(machine_.host_objects(), self_, at, n))))),
            at % kPageSize, n));
  return n;
}

Result<Ref<File>> LocalProgram::wrap(host::Descriptor fd) {
  return wrap_host_file(kernel_.host_files(), machine_.host_objects(), std::move(fd));
}

Result<Ref<File>> LocalProgram::file(s32 fd) {
  if (fd >= host::kFirstKernelFd) return fds_.get(fd);
  host::Descriptor copy = duplicate(fd);
  if (!copy) return fail(Errno::Ebadf);
  return wrap(std::move(copy));
}

void LocalProgram::install_fd(s32 fd, Ref<File> installed) {
  if (const int host = host_descriptor(*installed); host >= 0) install(fd, duplicate(host));
  fds_.install(fd, std::move(installed));
}

}  // namespace perdure::process
