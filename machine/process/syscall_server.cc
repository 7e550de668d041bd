#include "machine/process/syscall_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/host/memory_access.h"
#include "machine/process/accept.h"
#include "machine/process/status.h"
#include "machine/process/wire_task.h"
#include "machine/wire/syscall_protocol.h"

namespace perdure::process {

using wire::Call;
using wire::Question;

Result<void> SyscallServer::listen(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(Errno::Einval);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  host::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail(host::last_error());
  unlink(path.c_str());
  const mode_t mask = umask(0177);
  const int bound = bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(mask);
  if (bound != 0 || ::listen(socket.get(), 64) != 0) return fail(host::last_error());
  listener_ = std::move(socket);
  return {};
}

void SyscallServer::run() {
  accept_all(listener_.get(), [this](host::Descriptor socket) {
    // Detached: a program's thread ends with its program, or with this process at the jump.
    std::thread([this, s = std::move(socket)]() mutable { serve(std::move(s)); }).detach();
  });
}

namespace {

// One program: its calls, until it goes.
class Connection {
 public:
  Connection(Kernel& kernel, host::HostObjects& host_objects, int socket, u32 uid)
      : kernel_(kernel), socket_(socket), task_(socket, kernel.host_files(), host_objects, uid) {}

  void run() {
    for (;;) {
      auto call = wire::receive(socket_);
      if (!call) return;
      wire::Header head{.op = static_cast<u32>(Question::Result)};
      std::vector<std::byte> data;
      const auto value = serve(*call, data);
      if (value) {
        head.a = *value;
      } else {
        head.result = static_cast<s32>(value.error());
        data.clear();
      }
      if (!wire::send(socket_, head, data)) return;
    }
  }

 private:
  static std::string_view text(const wire::Message& m) {
    return {reinterpret_cast<const char*>(m.payload.data()), m.payload.size()};
  }

  Result<u64> serve(const wire::Message& call, std::vector<std::byte>& data) {
    const auto fd = static_cast<s32>(call.head.a);
    switch (static_cast<Call>(call.head.op)) {
      case Call::Open: {
        FdSlot slot = TRY(FdSlot::reserve(task_));
        Ref<File> file = TRY(kernel_.open(text(call)));
        const s32 number = slot.number();
        slot.install(std::move(file));
        return static_cast<u64>(number);
      }
      case Call::Close: TRY(task_.fds().close(fd)); return u64{0};
      case Call::Ioctl: {
        const Ref<File> file = TRY(task_.file(fd));
        return file->ioctl(task_, static_cast<u32>(call.head.b), UserAddr(call.head.c));
      }
      case Call::Read: {
        // Data travels with the result, so the file copies into this process.
        data.resize(std::min<u64>(call.head.b, wire::kMaxPayload));
        const Ref<File> file = TRY(task_.file(fd));
        Bounce bounce(task_);
        const usize n = TRY(file->read(bounce, address(data.data()), data.size(), call.head.c));
        data.resize(n);
        return u64{n};
      }
      case Call::Write: {
        const Ref<File> file = TRY(task_.file(fd));
        Bounce bounce(task_);
        return TRY(file->write(bounce, address(call.payload.data()), call.payload.size(), call.head.c));
      }
      case Call::KexecLoad: TRY(kernel_.kexec_load(text(call))); return u64{0};
      case Call::Kexec: TRY(kernel_.kexec()); return u64{0};
      case Call::Status: {
        // As long as there are sessions, in pieces that a message can hold.
        if (call.head.a == 0) status_ = status_json(kernel_);
        const usize from = std::min<u64>(call.head.a, status_.size());
        const auto piece =
            std::as_bytes(std::span(status_)).subspan(from).first(std::min(status_.size() - from, wire::kMaxPayload));
        data.assign(piece.begin(), piece.end());
        return u64{status_.size()};
      }
      default: break;
    }
    return fail(Errno::Enosys);
  }

  static UserAddr address(const void* p) { return UserAddr(reinterpret_cast<u64>(p)); }

  // The same program, with the data of a read or a write in this process.
  class Bounce final : public Task {
   public:
    explicit Bounce(Task& task) : task_(task) {}
    Result<void> copy_in(std::span<std::byte> to, UserAddr from) override { return host::read_memory(to, from.value); }
    Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override {
      return host::write_memory(to.value, from);
    }
    Result<void> resolve(UserAddr, u64, Access, FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)>) override {
      return fail(Errno::Efault);
    }
    Result<Ref<File>> file(s32 fd) override { return task_.file(fd); }
    Result<s32> reserve_fd() override { return task_.reserve_fd(); }
    void install_fd(s32 fd, Ref<File> file) override { task_.install_fd(fd, std::move(file)); }
    void release_fd(s32 fd) override { task_.release_fd(fd); }
    const Creds& creds() const override { return task_.creds(); }
    Result<Ref<Process>> process() override { return task_.process(); }

   private:
    Task& task_;
  };

  Kernel& kernel_;
  int socket_;
  WireTask task_;
  std::string status_;  // that is being asked for
};

}  // namespace

void SyscallServer::serve(host::Descriptor socket) {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid()) return;
  serve_program(kernel_, host_objects_, socket.get(), peer.uid);
}

void SyscallServer::serve_program(Kernel& kernel, host::HostObjects& host_objects, int socket, u32 uid) {
  Connection(kernel, host_objects, socket, uid).run();
}

}  // namespace perdure::process
