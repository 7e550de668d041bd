// Serves a machine's control socket (control.h).
#pragma once
#include <atomic>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "machine/process/board_server.h"
#include "tool/machine/control.h"
#include "tool/machine/machine_log.h"

namespace perdure::tool {

class ControlServer {
 public:
  // `end`: called when the machine is to end; on another thread.
  ControlServer(MachineRecord record, std::filesystem::path directory, process::BoardServer& server, MachineLog& log,
                std::function<void()> end);
  // Ends all conversations.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Throws MachineError.
  void listen();

 private:
  struct Conversation {
    explicit Conversation(host::Descriptor socket) : lines(std::move(socket)) {}
    JsonLines lines;
    std::thread thread;
    std::atomic<bool> done{false};
  };

  void accept();
  void serve(JsonLines& lines);
  nlohmann::json answer(const nlohmann::json& request, JsonLines& lines);
  nlohmann::json hello();
  nlohmann::json status();
  nlohmann::json kexec(const nlohmann::json& request);
  void log(const nlohmann::json& request, JsonLines& lines);
  void register_supervisor(const nlohmann::json& request, JsonLines& lines);
  std::string socket() const { return (directory_ / kKernelSocket).string(); }

  MachineRecord record_;
  std::filesystem::path directory_;
  process::BoardServer& server_;
  MachineLog& log_;
  std::function<void()> end_;

  std::mutex update_;  // one live update at a time
  std::mutex mutex_;
  std::list<Conversation> conversations_;
  std::map<int, nlohmann::json> supervisors_;  // by socket
  std::atomic<bool> ending_{false};
  host::Descriptor listener_;
  host::Descriptor stop_;  // eventfd
  std::thread acceptor_;
};

}  // namespace perdure::tool
