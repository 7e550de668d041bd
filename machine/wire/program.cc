#include "machine/wire/program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "machine/host/host_files.h"
#include "machine/host/memory_access.h"

namespace perdure::wire {

namespace {
std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
}  // namespace

Result<std::unique_ptr<ProgramSyscalls>> ProgramSyscalls::connect(const std::string& socket_path, int timeout_ms) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return fail(Errno::Einval);
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  for (int waited = 0;; ++waited) {
    host::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return fail(host::last_error());
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      return std::make_unique<ProgramSyscalls>(std::move(socket));
    }
    if (errno != ENOENT && errno != ECONNREFUSED) return fail(host::last_error());
    if (waited >= timeout_ms) return fail(Errno::Etimedout);
    poll(nullptr, 0, 1);
  }
}

ProgramSyscalls::~ProgramSyscalls() {
  for (const auto& [at, mapping] : mappings_) ::munmap(reinterpret_cast<void*>(at), mapping.length);  // NOLINT
}

Result<Message> ProgramSyscalls::call(Call op, u64 a, u64 b, u64 c, std::span<const std::byte> payload) {
  const std::scoped_lock lock(mutex_);
  TRY(send(socket_.get(), {.op = static_cast<u32>(op), .a = a, .b = b, .c = c}, payload));
  for (;;) {
    Message m = TRY(receive(socket_.get()));
    if (m.head.op == static_cast<u32>(Question::Result)) {
      if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
      return m;
    }
    if (m.head.op == static_cast<u32>(Question::InstallHost)) {
      installed_[static_cast<s32>(m.head.a)] = std::move(m.fd);
      continue;
    }
    TRY(answer(m));
  }
}

Result<void> ProgramSyscalls::answer(const Message& question) {
  Header reply{.op = static_cast<u32>(Question::Answer)};
  switch (static_cast<Question>(question.head.op)) {
    case Question::CopyIn: {
      if (question.head.b > kMaxPayload) return fail(Errno::Eproto);
      std::vector<std::byte> data(question.head.b);
      if (auto r = host::read_memory(data, question.head.a); !r) {
        reply.result = static_cast<s32>(r.error());
        return send(socket_.get(), reply);
      }
      return send(socket_.get(), reply, data);
    }
    case Question::CopyOut:
      if (auto r = host::write_memory(question.head.a, question.payload); !r)
        reply.result = static_cast<s32>(r.error());
      return send(socket_.get(), reply);
    case Question::Descriptor: {
      const int fd = static_cast<int>(question.head.a);
      if (fd < 0 || fcntl(fd, F_GETFD) < 0) {
        reply.result = static_cast<s32>(Errno::Ebadf);
        return send(socket_.get(), reply);
      }
      return send(socket_.get(), reply, {}, fd);
    }
    case Question::Resolve: return answer_resolve(question.head.a, question.head.b);
    default: return fail(Errno::Eproto);
  }
}

Result<void> ProgramSyscalls::answer_resolve(u64 at, u64 length) {
  Header reply{.op = static_cast<u32>(Question::Answer)};
  auto next = mappings_.upper_bound(at);
  if (next != mappings_.begin()) {
    const auto& [start, mapping] = *std::prev(next);
    if (at < start + mapping.length) {
      reply.a = mapping.offset + (at - start);
      reply.b = std::min(length, start + mapping.length - at);
      return send(socket_.get(), reply, {}, TRY(host_fd(mapping.fd)));
    }
  }
  reply.result = static_cast<s32>(Errno::Efault);
  return send(socket_.get(), reply);
}

Result<int> ProgramSyscalls::host_fd(s32 fd) {
  if (fd < kFirstKernelFd) return fd;
  const auto found = installed_.find(fd);
  if (found == installed_.end()) return fail(Errno::Ebadf);
  return found->second.get();
}

Result<s32> ProgramSyscalls::open(std::string_view path) {
  return static_cast<s32>(TRY(call(Call::Open, 0, 0, 0, bytes_of(path))).head.a);
}

Result<void> ProgramSyscalls::close(s32 fd) {
  if (fd < kFirstKernelFd) {
    if (::close(fd) != 0) return fail(host::last_error());
    return {};
  }
  TRY(call(Call::Close, static_cast<u64>(fd), 0, 0));
  const std::scoped_lock lock(mutex_);
  installed_.erase(fd);
  return {};
}

Result<u64> ProgramSyscalls::ioctl(s32 fd, u32 cmd, void* arg) {
  return TRY(call(Call::Ioctl, static_cast<u64>(fd), cmd, reinterpret_cast<u64>(arg)))
  .head.a;
}

Result<usize> ProgramSyscalls::pread(s32 fd, void* to, usize bytes, u64 pos) {
  if (fd < kFirstKernelFd) {
    const ssize_t n = ::pread(fd, to, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  const Message m = TRY(call(Call::Read, static_cast<u64>(fd), std::min(bytes, kMaxPayload), pos));
  std::memcpy(to, m.payload.data(), std::min(bytes, m.payload.size()));
  return m.payload.size();
}

Result<usize> ProgramSyscalls::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  if (fd < kFirstKernelFd) {
    const ssize_t n = ::pwrite(fd, from, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  const std::span data(static_cast<const std::byte*>(from), std::min(bytes, kMaxPayload));
  return TRY(call(Call::Write, static_cast<u64>(fd), 0, pos, data))
  .head.a;
}

Result<s32> ProgramSyscalls::memfd_create(std::string_view name) {
  const int fd = ::memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return fail(host::last_error());
  return fd;
}

Result<void> ProgramSyscalls::ftruncate(s32 fd, u64 bytes) {
  if (::ftruncate(TRY(host_fd(fd)), static_cast<off_t>(bytes)) != 0) return fail(host::last_error());
  return {};
}

Result<u64> ProgramSyscalls::file_size(s32 fd) {
  const off_t end = lseek(TRY(host_fd(fd)), 0, SEEK_END);
  if (end < 0) return fail(host::last_error());
  return static_cast<u64>(end);
}

Result<void> ProgramSyscalls::add_seals(s32 fd, u32 seals) {
  if (fcntl(TRY(host_fd(fd)), F_ADD_SEALS, seals) != 0) return fail(host::last_error());
  return {};
}

Result<u32> ProgramSyscalls::seals(s32 fd) {
  const int seals = fcntl(TRY(host_fd(fd)), F_GET_SEALS);
  if (seals < 0) return fail(host::last_error());
  return static_cast<u32>(seals);
}

Result<u64> ProgramSyscalls::memory_id(s32 fd) {
  return host::file_id(TRY(host_fd(fd)));
}

Result<std::byte*> ProgramSyscalls::mmap(s32 fd, u64 offset, u64 length) {
  void* at = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, TRY(host_fd(fd)),
                    static_cast<off_t>(offset));
  if (at == MAP_FAILED) return fail(host::last_error());
  const std::scoped_lock lock(mutex_);
  mappings_[reinterpret_cast<u64>(at)] = {length, fd, offset};
  return static_cast<std::byte*>(at);
}

Result<void> ProgramSyscalls::munmap(std::byte* at, u64 length) {
  {
    const std::scoped_lock lock(mutex_);
    if (mappings_.erase(reinterpret_cast<u64>(at)) == 0) return fail(Errno::Einval);
  }
  if (::munmap(at, length) != 0) return fail(host::last_error());
  return {};
}

Result<s32> ProgramSyscalls::eventfd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail(host::last_error());
  return fd;
}

Result<u64> ProgramSyscalls::eventfd_read(s32 fd) {
  u64 count = 0;
  if (::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) return count;
  if (errno == EAGAIN) return u64{0};
  return fail(host::last_error());
}

u64 ProgramSyscalls::now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec);
}

void ProgramSyscalls::pause() {
  poll(nullptr, 0, 1);
}

Result<void> ProgramSyscalls::kexec_load(std::string_view kernel) {
  TRY(call(Call::KexecLoad, 0, 0, 0, bytes_of(kernel)));
  return {};
}

Result<void> ProgramSyscalls::kexec() {
  TRY(call(Call::Kexec, 0, 0, 0));
  return {};
}

Result<std::string> ProgramSyscalls::status() {
  const Message m = TRY(call(Call::Status, 0, 0, 0));
  return std::string(reinterpret_cast<const char*>(m.payload.data()), m.payload.size());
}

void ProgramSyscalls::wait_killed() {
  pollfd p = {socket_.get(), POLLRDHUP, 0};
  while (poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace perdure::wire
