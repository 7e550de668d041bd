#include "machine/process/wire_task.h"

#include <algorithm>
#include <cstring>

namespace perdure::process {

using wire::Question;

namespace {
u32 number(Question q) {
  return static_cast<u32>(q);
}
}  // namespace

Result<wire::Message> WireTask::ask(const wire::Header& question, std::span<const std::byte> payload) {
  TRY(wire::send(socket_, question, payload));
  wire::Message answer = TRY(wire::receive(socket_));
  if (answer.head.op != number(Question::Answer)) return fail(Errno::Eproto);
  if (answer.head.result != 0) return fail(static_cast<Errno>(answer.head.result));
  return answer;
}

Result<void> WireTask::copy_in(std::span<std::byte> to, UserAddr from) {
  for (usize done = 0; done < to.size();) {
    const usize n = std::min(to.size() - done, wire::kMaxPayload);
    const wire::Message m = TRY(ask({.op = number(Question::CopyIn), .a = from.value + done, .b = n}));
    if (m.payload.size() != n) return fail(Errno::Efault);
    std::memcpy(to.data() + done, m.payload.data(), n);
    done += n;
  }
  return {};
}

Result<void> WireTask::copy_out(UserAddr to, std::span<const std::byte> from) {
  for (usize done = 0; done < from.size();) {
    const usize n = std::min(from.size() - done, wire::kMaxPayload);
    TRY(ask({.op = number(Question::CopyOut), .a = to.value + done}, from.subspan(done, n)));
    done += n;
  }
  return {};
}

Result<void> WireTask::resolve(UserAddr at, u64 length, Access access,
                               FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  for (u64 done = 0; done < length;) {
    wire::Message m = TRY(ask(
        {.op = number(Question::Resolve), .a = at.value + done, .b = length - done, .c = static_cast<u64>(access)}));
    if (!m.fd || m.head.b == 0) return fail(Errno::Efault);
    const Ref<File> file = TRY(fds_.wrap(std::move(m.fd)));
    auto* memory = file_cast<SharedMemory>(file.get());
    if (!memory) return fail(Errno::Efault);
    const u64 n = std::min(m.head.b, length - done);
    TRY(piece(Ref<SharedMemory>(memory), m.head.a, n));
    done += n;
  }
  return {};
}

Result<Ref<File>> WireTask::file(s32 fd) {
  if (fd >= host::kFirstKernelFd) return fds_.get(fd);
  if (fd < 0) return fail(Errno::Ebadf);
  wire::Message m = TRY(ask({.op = number(Question::Descriptor), .a = static_cast<u64>(fd)}));
  if (!m.fd) return fail(Errno::Ebadf);
  return fds_.wrap(std::move(m.fd));
}

void WireTask::install_fd(s32 fd, Ref<File> file) {
  if (const int host = FdTable::host_descriptor(*file); host >= 0) {
    (void)wire::send(socket_, {.op = number(Question::InstallHost), .a = static_cast<u64>(fd)}, {}, host);
  }
  fds_.install(fd, std::move(file));
}

}  // namespace perdure::process
