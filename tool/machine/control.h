// What a machine's board process is asked over its control socket. JSON lines: one request a connection,
// {"v": 1, "do": WHAT, …}, and one answer, {"v": 1, …} or {"v": 1, "errno": NUMBER, "error": WORDS}.
//
//   hello     → name, pid, started, config, kernel (socket), release, hop
//   status    → tree: see status_tree.h
//   kexec     kernel: a name or an absolute path, absent: the next one in turn → report: see kexec_report.h
//   log       follow: bool → {"begin": true}, {"line": …} each, then, unless followed, {"end": true}
//   register  pid, command: a supervisor, for as long as the connection stays
//   down      → the machine ends; the process is gone soon after
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tool/machine/lines.h"
#include "tool/machine/runtime_directory.h"

namespace perdure::tool {

inline constexpr int kControlVersion = 1;

// A connection to the machine in `directory`. Throws MachineError: the machine does not answer, speaks another version,
// or says that something is wrong.
class Control {
 public:
  explicit Control(const std::filesystem::path& directory);
  // Sends the request and returns the answer.
  nlohmann::json ask(nlohmann::json request, int timeout_ms);
  // A further line of the answer; nothing when the machine is gone.
  std::optional<nlohmann::json> more();
  int socket() const { return lines_.socket(); }

 private:
  std::filesystem::path directory_;
  JsonLines lines_;
};

}  // namespace perdure::tool
