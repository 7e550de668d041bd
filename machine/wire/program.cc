#include "machine/wire/program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
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
      install(static_cast<s32>(m.head.a), std::move(m.fd));
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
  const auto found = mapped_at(at);
  if (!found) {
    reply.result = static_cast<s32>(found.error());
    return send(socket_.get(), reply);
  }
  reply.a = found->offset;
  reply.b = std::min(length, found->length);
  return send(socket_.get(), reply, {}, found->fd);
}

Result<s32> ProgramSyscalls::open(std::string_view path) {
  return static_cast<s32>(TRY(call(Call::Open, 0, 0, 0, bytes_of(path))).head.a);
}

Result<void> ProgramSyscalls::close(s32 fd) {
  if (fd < host::kFirstKernelFd) {
    if (::close(fd) != 0) return fail(host::last_error());
    return {};
  }
  TRY(call(Call::Close, static_cast<u64>(fd), 0, 0));
  uninstall(fd);
  return {};
}

Result<u64> ProgramSyscalls::ioctl(s32 fd, u32 cmd, void* arg) {
  return TRY(call(Call::Ioctl, static_cast<u64>(fd), cmd, reinterpret_cast<u64>(arg)))
  .head.a;
}

Result<usize> ProgramSyscalls::pread(s32 fd, void* to, usize bytes, u64 pos) {
  if (fd < host::kFirstKernelFd) {
    const ssize_t n = ::pread(fd, to, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  const Message m = TRY(call(Call::Read, static_cast<u64>(fd), std::min(bytes, kMaxPayload), pos));
  std::memcpy(to, m.payload.data(), std::min(bytes, m.payload.size()));
  return m.payload.size();
}

Result<usize> ProgramSyscalls::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  if (fd < host::kFirstKernelFd) {
    const ssize_t n = ::pwrite(fd, from, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  const std::span data(static_cast<const std::byte*>(from), std::min(bytes, kMaxPayload));
  return TRY(call(Call::Write, static_cast<u64>(fd), 0, pos, data))
  .head.a;
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
  std::string text;
  for (;;) {
    const Message m = TRY(call(Call::Status, text.size(), 0, 0));
    text.append(reinterpret_cast<const char*>(m.payload.data()), m.payload.size());
    if (text.size() >= m.head.a || m.payload.empty()) return text;
  }
}

void ProgramSyscalls::wait_killed() {
  pollfd p = {socket_.get(), POLLRDHUP, 0};
  while (poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace perdure::wire
