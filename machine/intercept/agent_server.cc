#include "machine/intercept/agent_server.h"

#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "machine/host/host_files.h"
#include "machine/intercept/agent_caller.h"

namespace perdure::intercept {

namespace {

constexpr int kRetryMs = 10;
constexpr int kBacklog = 128;

// As execvp() finds it.
host::Descriptor open_program(const std::string& program) {
  if (program.find('/') != std::string::npos) return host::Descriptor(open(program.c_str(), O_RDONLY | O_CLOEXEC));
  const char* const set = std::getenv("PATH");
  std::string_view path = set != nullptr ? set : "/bin:/usr/bin";
  for (;;) {
    const usize end = std::min(path.find(':'), path.size());
    const std::string directory(path.substr(0, end));
    const std::string file = (directory.empty() ? "." : directory) + "/" + program;
    if (access(file.c_str(), X_OK) == 0) return host::Descriptor(open(file.c_str(), O_RDONLY | O_CLOEXEC));
    if (end == path.size()) return {};
    path.remove_prefix(end + 1);
  }
}

}  // namespace

bool can_preload(const std::string& program) {
  const host::Descriptor file = open_program(program);
  Elf64_Ehdr head = {};
  if (!file || pread(file.get(), &head, sizeof head, 0) != static_cast<ssize_t>(sizeof head) ||
      std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) {
    return true;
  }
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64) return false;
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr part = {};
    const auto at = static_cast<off_t>(head.e_phoff + u64{i} * head.e_phentsize);
    if (pread(file.get(), &part, sizeof part, at) != static_cast<ssize_t>(sizeof part)) return true;
    if (part.p_type == PT_INTERP) return true;
  }
  return false;
}

Result<std::unique_ptr<AgentServer>> AgentServer::listen(const std::string& path, std::vector<sock_filter> filter) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path || filter.size() > agent::kMostInstructions) {
    return fail(Errno::Enametoolong);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  host::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail(host::last_error());
  const mode_t mask = umask(0177);
  const int bound = bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(mask);
  if (bound != 0 || ::listen(socket.get(), kBacklog) != 0) return fail(host::last_error());
  return std::unique_ptr<AgentServer>(new AgentServer(path, std::move(socket), std::move(filter)));
}

std::vector<std::string> AgentServer::environment(const std::string& library) const {
  const char* const before = std::getenv("LD_PRELOAD");
  std::string preload = "LD_PRELOAD=" + library;
  if (before != nullptr && *before != 0) preload += std::string(":") + before;
  return {std::string(agent::kSocketVariable) + "=" + path_, std::move(preload)};
}

void AgentServer::start(Machine& machine, Join join, std::function<void()> gone) {
  machine_ = &machine;
  join_ = std::move(join);
  gone_ = std::move(gone);
  std::thread([this] {
    for (;;) {
      host::Descriptor socket(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) {
        if (errno != EINTR && errno != ECONNABORTED) poll(nullptr, 0, kRetryMs);
        continue;
      }
      try {
        std::thread([this, one = std::move(socket)]() mutable { serve(std::move(one)); }).detach();
      } catch (const std::system_error&) {
        continue;  // no thread to be had: it is hung up on, and makes its call as if there were no library
      }
    }
  }).detach();
}

void AgentServer::serve(host::Descriptor socket) const {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid()) return;
  auto link = join_();
  if (!link) return gone_();
  AgentCaller caller(std::move(socket), *machine_->processes, filter_);
  Service service(*machine_, **link, [] {}, &caller);
  while (const auto call = caller.receive()) {
    if (!service.serve(*call)) return gone_();
  }
}

}  // namespace perdure::intercept
