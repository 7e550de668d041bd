#include "machine/wire/program.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "machine/host/host_files.h"
#include "machine/host/memory_access.h"

namespace perdure::wire {

namespace {
std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
u32 number(Call call) {
  return static_cast<u32>(call);
}
}  // namespace

Result<std::unique_ptr<ProgramSyscalls>> ProgramSyscalls::connect(const std::string& socket_path, int timeout_ms) {
  return std::make_unique<ProgramSyscalls>(TRY(Channel::connect(socket_path, timeout_ms)));
}

Result<Message> ProgramSyscalls::call(const Header& head, std::span<const std::byte> payload) {
  const std::scoped_lock lock(mutex_);
  return channel_.call(head, payload, [this](Message& question) { return answer(question); });
}

Result<Reply> ProgramSyscalls::answer(Message& question) {
  Reply reply;
  const Header& head = question.head;
  switch (static_cast<Question>(head.op)) {
    case Question::CopyIn:
      if (head.b > kMaxPayload) return fail(Errno::Eproto);
      reply.payload.resize(head.b);
      TRY(host::read_memory(reply.payload, head.a));
      return reply;
    case Question::CopyOut: TRY(host::write_memory(head.a, question.payload)); return reply;
    case Question::Descriptor: {
      const int fd = static_cast<int>(head.a);
      if (fd >= host::kFirstKernelFd) {
        reply.a = head.a;
        return reply;
      }
      if (fd < 0 || fcntl(fd, F_GETFD) < 0) return fail(Errno::Ebadf);
      reply.a = kNoHandle;
      reply.fd = fd;
      return reply;
    }
    case Question::Resolve: {
      const auto found = TRY(mapped_at(head.a));
      reply.a = found.offset;
      reply.b = std::min(head.b, found.length);
      reply.c = static_cast<u64>(Piece::Shared);
      reply.fd = found.fd;
      return reply;
    }
    case Question::MayInstall: return reply;
    case Question::Install:
      // Files of the kernel are known by their handle, files of the host are the host's.
      reply.a = head.b != kNoHandle ? head.b : static_cast<u64>(question.fd.release());
      return reply;
    default: return fail(Errno::Eproto);
  }
}

Result<s32> ProgramSyscalls::open(std::string_view path) {
  return static_cast<s32>(TRY(call({.op = number(Call::Open), .b = O_RDWR | O_CLOEXEC}, bytes_of(path))).head.a);
}

Result<void> ProgramSyscalls::close(s32 fd) {
  if (fd < host::kFirstKernelFd) {
    if (::close(fd) != 0) return fail(host::last_error());
    return {};
  }
  TRY(call({.op = number(Call::Close), .a = static_cast<u64>(fd)}));
  return {};
}

Result<u64> ProgramSyscalls::ioctl(s32 fd, u32 cmd, void* arg) {
  return TRY(call({.op = number(Call::Ioctl), .a = static_cast<u64>(fd), .b = cmd, .c = reinterpret_cast<u64>(arg)}))
  .head.a;
}

Result<usize> ProgramSyscalls::pread(s32 fd, void* to, usize bytes, u64 pos) {
  if (fd < host::kFirstKernelFd) {
    const ssize_t n = ::pread(fd, to, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  return TRY(
      call({.op = number(Call::Read), .a = static_cast<u64>(fd), .b = bytes, .c = pos, .d = reinterpret_cast<u64>(to)}))
  .head.a;
}

Result<usize> ProgramSyscalls::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  if (fd < host::kFirstKernelFd) {
    const ssize_t n = ::pwrite(fd, from, bytes, static_cast<off_t>(pos));
    if (n < 0) return fail(host::last_error());
    return static_cast<usize>(n);
  }
  return TRY(call(
      {.op = number(Call::Write), .a = static_cast<u64>(fd), .b = bytes, .c = pos, .d = reinterpret_cast<u64>(from)}))
  .head.a;
}

Result<void> ProgramSyscalls::kexec_load(std::string_view kernel) {
  TRY(call({.op = number(Call::KexecLoad)}, bytes_of(kernel)));
  return {};
}

Result<void> ProgramSyscalls::kexec() {
  TRY(call({.op = number(Call::Kexec)}));
  return {};
}

Result<std::string> ProgramSyscalls::text(Call what) {
  std::string text;
  for (;;) {
    const Message m = TRY(call({.op = number(what), .a = text.size()}));
    text.append(reinterpret_cast<const char*>(m.payload.data()), m.payload.size());
    if (text.size() >= m.head.a || m.payload.empty()) return text;
  }
}

void ProgramSyscalls::wait_killed() {
  pollfd p = {channel_.socket(), POLLRDHUP, 0};
  while (poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace perdure::wire
