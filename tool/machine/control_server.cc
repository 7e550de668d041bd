#include "tool/machine/control_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "machine/wire/program.h"
#include "tool/machine/kexec_report.h"
#include "tool/machine/status_tree.h"

namespace perdure::tool {

using nlohmann::json;

namespace {

constexpr int kRequestMs = 10'000;
constexpr int kConnectMs = 1000;
// Supervisors may take five seconds to end their programs (machine/wire), and booting is as slow as the host.
constexpr u64 kReadyNs = 60'000'000'000;
constexpr int kFollowMs = 500;

json error(Errno why, const std::string& what) {
  return {{"v", kControlVersion}, {"errno", static_cast<int>(why)}, {"error", what}};
}

// Lines of a log, for people.
std::string tail(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

}  // namespace

ControlServer::ControlServer(MachineRecord record, std::filesystem::path directory, process::BoardServer& server,
                             MachineLog& log, std::function<void()> end)
    : record_(std::move(record)), directory_(std::move(directory)), server_(server), log_(log), end_(std::move(end)) {}

ControlServer::~ControlServer() {
  ending_ = true;
  if (stop_) eventfd_write(stop_.get(), 1);
  if (acceptor_.joinable()) acceptor_.join();
  log_.say("ends");  // wakes those who follow
  // Nobody adds one any more. Not under the lock, which who has registered takes once more on his way out.
  for (Conversation& c : conversations_) shutdown(c.lines.socket(), SHUT_RDWR);
  for (Conversation& c : conversations_) c.thread.join();
}

void ControlServer::listen() {
  const std::string path = directory_ / kControlSocket;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw MachineError(Errno::Einval, path + ": too long a path for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  listener_ = host::Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  stop_ = host::Descriptor(eventfd(0, EFD_CLOEXEC));
  // The directory is this user's alone; the socket itself is, too.
  const mode_t mask = umask(0177);
  const bool bound =
      listener_ && stop_ && bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  umask(mask);
  if (!bound || ::listen(listener_.get(), SOMAXCONN) != 0) {
    throw MachineError(static_cast<Errno>(errno), path + ": cannot be listened on: " + std::strerror(errno));
  }
  acceptor_ = std::thread([this] { accept(); });
}

void ControlServer::accept() {
  constexpr int kPauseMs = 10;
  for (;;) {
    pollfd fds[] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    host::Descriptor socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::scoped_lock lock(mutex_);
    std::erase_if(conversations_, [](Conversation& c) {
      if (c.done) c.thread.join();
      return c.done.load();
    });
    if (!socket) {
      poll(nullptr, 0, kPauseMs);  // no descriptors, maybe: others give some back
      continue;
    }
    Conversation& c = conversations_.emplace_back(std::move(socket));
    try {
      c.thread = std::thread([this, &c] {
        serve(c.lines);
        shutdown(c.lines.socket(), SHUT_RDWR);
        c.done = true;
      });
    } catch (const std::system_error&) {
      conversations_.pop_back();  // hung up on
    }
  }
}

void ControlServer::serve(JsonLines& lines) {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (getsockopt(lines.socket(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid()) {
    (void)lines.send(error(Errno::Eacces, "EACCES: the machine is another user's"));
    return;
  }
  const auto request = lines.receive(kRequestMs);
  if (!request) return;
  if (!request->is_object() || request->value("v", json(0)) != json(kControlVersion)) {
    (void)lines.send(
        error(Errno::Eproto, fmt::format("the machine speaks version {} of this protocol", kControlVersion)));
    return;
  }
  json reply;
  try {
    reply = answer(*request, lines);
  } catch (const MachineError& e) {
    reply = error(e.why(), e.what());
  } catch (const json::exception& e) {
    reply = error(Errno::Einval, std::string("not a request: ") + e.what());
  }
  if (!reply.is_null()) (void)lines.send(reply);
}

json ControlServer::answer(const json& request, JsonLines& lines) {
  const std::string what = request.value("do", json("")).dump();
  if (what == "\"hello\"") return hello();
  if (what == "\"status\"") return status();
  if (what == "\"kexec\"") return kexec(request);
  if (what == "\"log\"") {
    log(request, lines);
    return {};
  }
  if (what == "\"register\"") {
    register_supervisor(request, lines);
    return {};
  }
  if (what == "\"down\"") {
    log_.say("is told to end");
    end_();
    return {{"v", kControlVersion}, {"ending", true}};
  }
  return error(Errno::Einval, "there is no such request: " + what);
}

json ControlServer::hello() {
  const auto ready = server_.wait_ready(std::nullopt, 0);
  return {{"v", kControlVersion},
          {"name", record_.name},
          {"pid", record_.board.pid},
          {"started", record_.started},
          {"config", record_.config},
          {"kernel", socket()},
          {"release", ready ? ready->release : ""},
          {"hop", ready ? ready->hop : 0}};
}

json ControlServer::status() {
  const auto admin = wire::ProgramSyscalls::connect(socket(), kConnectMs);
  const auto text = admin ? (*admin)->status() : Result<std::string>(fail(admin.error()));
  json tree = text ? status_tree(json::parse(*text)) : json::object();
  tree["machine"] = hello();
  tree["machine"].erase("v");
  if (!text) {
    const auto ended = server_.ended();
    tree["machine"]["problem"] =
        ended ? "the kernel process " + ending(*ended)
              : "the kernel does not answer (" + std::string(errno_name(text.error())) + "); it may be on its way";
  }
  tree["supervisors"] = json::object();
  const std::scoped_lock lock(mutex_);
  for (const auto& [socket, supervisor] : supervisors_) {
    tree["supervisors"][std::to_string(supervisor.value("pid", 0))] = supervisor;
  }
  return {{"v", kControlVersion}, {"tree", std::move(tree)}};
}

json ControlServer::kexec(const json& request) {
  const std::unique_lock alone(update_, std::try_to_lock);
  if (!alone) throw MachineError(Errno::Ebusy, "another kexec is under way");
  u64 mark = log_.last();
  const auto refused = [&](Errno why, const std::string& what) {
    log_.sync();
    return error(why, what + ": " + std::string(errno_name(why)) + tail(log_.after(mark)));
  };
  const auto before = server_.wait_ready(std::nullopt, 0);
  if (!before) return refused(before.error(), "there is no kernel that could be replaced");
  // Without a name it is the next one in turn.
  const std::string name = request.value("kernel", "");
  const std::string kernel = name.empty() ? "the next kernel" : "kernel " + name;
  const auto began = std::chrono::steady_clock::now();
  auto admin = wire::ProgramSyscalls::connect(socket(), kConnectMs);
  if (!admin) return refused(admin.error(), "the kernel does not answer");
  if (const auto loaded = (*admin)->kexec_load(name); !loaded) {
    return refused(loaded.error(), kernel + " cannot be loaded; nothing was frozen");
  }
  if (const auto gone = (*admin)->kexec(); gone || gone.error() != Errno::Ekilled) {
    return refused(gone ? Errno::Eproto : gone.error(), "no live update; everything runs on under " + before->release);
  }
  const auto after = server_.wait_ready(before->hop, kReadyNs);
  if (!after) return refused(after.error(), kernel + " did not come up; the machine is lost");

  KexecReport report{.from = before->release, .to = after->release, .hop = after->hop, .phases = {}, .log = {}};
  report.asked_ns = static_cast<u64>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - began).count());
  admin = wire::ProgramSyscalls::connect(socket(), kConnectMs);
  if (admin) {
    if (const auto text = (*admin)->status()) report.phases = phases_of(json::parse(*text));
  }
  log_.sync();
  // The machine's own lines are no news here.
  report.log = log_.after(mark);
  std::erase_if(report.log, [](const std::string& line) { return line.find("Z machine: ") != std::string::npos; });
  return {{"v", kControlVersion}, {"report", to_json(report)}};
}

void ControlServer::log(const json& request, JsonLines& lines) {
  const bool follow = request.value("follow", false);
  log_.sync();
  if (!lines.send({{"v", kControlVersion}, {"begin", true}})) return;
  for (u64 seen = 0;;) {
    for (const std::string& line : log_.after(seen)) {
      if (!lines.send({{"v", kControlVersion}, {"line", line}})) return;
    }
    if (ending_ || lines.gone()) return;
    if (!follow) {
      (void)lines.send({{"v", kControlVersion}, {"end", true}});
      return;
    }
    log_.wait(seen, kFollowMs);
  }
}

void ControlServer::register_supervisor(const json& request, JsonLines& lines) {
  const json entry = {{"pid", request.at("pid").get<int>()}, {"command", request.at("command").get<std::string>()}};
  {
    const std::scoped_lock lock(mutex_);
    supervisors_[lines.socket()] = entry;
  }
  (void)lines.send({{"v", kControlVersion}, {"registered", true}});
  (void)lines.receive(-1);
  const std::scoped_lock lock(mutex_);
  supervisors_.erase(lines.socket());
}

}  // namespace perdure::tool
