#include "tool/machine/runtime_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace perdure::tool {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kLock = "lock";
constexpr std::string_view kRecord = "machine";
constexpr usize kLongestName = 64;

[[noreturn]] void fail_with(const fs::path& what, const std::string& did) {
  const int error = errno;
  throw MachineError(static_cast<Errno>(error), what.string() + ": " + did + ": " + std::strerror(error));
}

// Throws unless it is a directory of this user that nobody else can enter.
void check_private(const fs::path& directory, bool exactly) {
  struct stat st = {};
  if (lstat(directory.c_str(), &st) != 0) fail_with(directory, "cannot be examined");
  if (!S_ISDIR(st.st_mode)) {
    throw MachineError(Errno::Eacces, directory.string() + ": EACCES: is not a directory; remove it");
  }
  if (st.st_uid != geteuid()) {
    throw MachineError(Errno::Eacces, directory.string() + ": EACCES: belongs to user " + std::to_string(st.st_uid) +
                                          ", not to you (" + std::to_string(geteuid()) +
                                          "); set XDG_RUNTIME_DIR to a directory of yours");
  }
  if (exactly && (st.st_mode & 07777) != 0700) {
    throw MachineError(Errno::Eacces, directory.string() + ": EACCES: others may enter it; chmod 700 it");
  }
}

// Where it would be.
fs::path place() {
  const char* const base = std::getenv("XDG_RUNTIME_DIR");
  // A relative path is to be ignored (XDG Base Directory Specification).
  if (base != nullptr && *base == '/') {
    check_private(base, false);
    return fs::path(base) / "perdure";
  }
  return fs::path("/tmp") / ("perdure-" + std::to_string(geteuid()));
}

bool stands(const fs::path& path) {
  struct stat st = {};
  return lstat(path.c_str(), &st) == 0;
}

// Open file description locks: they go along with the descriptor to the board process, and can be asked about without
// being taken.
flock whole_file() {
  flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

bool locked(const fs::path& directory) {
  const host::Descriptor file(open((directory / kLock).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  flock lock = whole_file();
  return file && fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// The lock of the machine in `directory`, if the file that was locked still is the one that stands there: whoever ends
// a machine removes the file while others wait for it.
host::Descriptor try_lock(const fs::path& directory) {
  const fs::path path = directory / kLock;
  host::Descriptor lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  flock all = whole_file();
  if (!lock || fcntl(lock.get(), F_OFD_SETLK, &all) != 0) return {};
  struct stat mine = {};
  struct stat there = {};
  if (fstat(lock.get(), &mine) != 0 || stat(path.c_str(), &there) != 0 || mine.st_ino != there.st_ino ||
      mine.st_dev != there.st_dev) {
    return {};
  }
  return lock;
}

std::optional<MachineRecord> read_record(const fs::path& directory) {
  std::ifstream in(directory / kRecord, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const json j = json::parse(text, nullptr, false);
  if (!in || !j.is_object()) return std::nullopt;
  MachineRecord record;
  try {
    record.name = j.at("name");
    record.board = {.pid = j.at("pid"), .start_time = j.at("start_time")};
    record.started = j.at("started");
    record.config = j.at("config");
  } catch (const json::exception&) {
    return std::nullopt;
  }
  return record;
}

void empty_out(const fs::path& directory) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.path().filename() != kLock) fs::remove_all(entry.path(), ignored);
  }
}

Found examine(const fs::path& directory) {
  Found found{.state = Found::State::Absent, .directory = directory, .record = {}};
  found.record.name = directory.filename().string();
  if (!stands(directory)) return found;
  check_private(directory, true);
  const auto record = read_record(directory);
  if (record) found.record = *record;
  if (record && runs(record->board)) {
    found.state = Found::State::Running;
    return found;
  }
  // Nobody who is written down. Whoever is about to start or to end has the lock.
  found.state = locked(directory) ? Found::State::Starting : Found::State::Stale;
  return found;
}

}  // namespace

std::optional<ProcessId> process_of(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  const std::string stat((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  // "PID (NAME) STATE …": the name may hold anything. The start time is field 22, a zombie is no process any more.
  const usize end = stat.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  std::vector<std::string> fields;
  for (usize at = end + 1; at < stat.size();) {
    const usize from = stat.find_first_not_of(" \n", at);
    if (from == std::string::npos) break;
    at = std::min(stat.find_first_of(" \n", from), stat.size());
    fields.push_back(stat.substr(from, at - from));
  }
  constexpr usize kState = 0;
  constexpr usize kStartTime = 19;
  if (fields.size() <= kStartTime || fields[kState] == "Z" || fields[kState] == "X") return std::nullopt;
  return ProcessId{.pid = pid, .start_time = std::strtoull(fields[kStartTime].c_str(), nullptr, 10)};
}

void check_name(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  const bool good = !name.empty() && name.size() <= kLongestName && plain(name[0]) &&
                    std::ranges::all_of(name, [&](char c) { return plain(c) || c == '-' || c == '_' || c == '.'; });
  if (good) return;
  throw MachineError(Errno::Einval, "\"" + std::string(name) +
                                        "\" is no name for a machine: choose up to 64 letters, digits, '-', '_' and "
                                        "'.', beginning with a letter or a digit");
}

fs::path runtime_directory() {
  const fs::path path = place();
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) fail_with(path, "cannot be made");
  check_private(path, true);
  return path;
}

fs::path existing_runtime_directory() {
  const fs::path path = place();
  if (!stands(path)) return {};
  check_private(path, true);
  return path;
}

fs::path machine_directory(std::string_view name) {
  check_name(name);
  return place() / name;
}

void write_record(const fs::path& directory, const MachineRecord& record) {
  const json j = {{"version", 1},
                  {"name", record.name},
                  {"pid", record.board.pid},
                  {"start_time", record.board.start_time},
                  {"started", record.started},
                  {"config", record.config}};
  const fs::path path = directory / kRecord;
  const fs::path fresh = directory / "machine.new";
  {
    std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
    out << j.dump(-1, ' ', false, json::error_handler_t::replace) << "\n";
    if (!out.flush()) fail_with(fresh, "cannot be written");
  }
  if (rename(fresh.c_str(), path.c_str()) != 0) fail_with(path, "cannot be written");
}

Found find_machine(std::string_view name) {
  check_name(name);
  const fs::path base = existing_runtime_directory();
  Found absent;
  absent.record.name = name;
  return base.empty() ? absent : examine(base / name);
}

std::vector<Found> find_machines() {
  std::vector<Found> all;
  const fs::path base = existing_runtime_directory();
  if (base.empty()) return all;
  for (const fs::directory_entry& entry : fs::directory_iterator(base)) {
    if (!entry.is_directory() || entry.is_symlink()) continue;
    Found found = examine(entry.path());
    if (found.state != Found::State::Absent) all.push_back(std::move(found));
  }
  std::ranges::sort(all, {}, [](const Found& f) { return f.record.name; });
  return all;
}

Claimed claim(std::string_view name) {
  check_name(name);
  Claimed claimed{.directory = runtime_directory() / name, .lock = {}};
  const usize longest = claimed.directory.string().size() + 1 + std::max(kControlSocket.size(), kKernelSocket.size());
  if (longest >= sizeof(sockaddr_un::sun_path)) {
    throw MachineError(Errno::Einval, claimed.directory.string() +
                                          ": too long a path for a socket; choose a shorter name or XDG_RUNTIME_DIR");
  }
  if (mkdir(claimed.directory.c_str(), 0700) != 0 && errno != EEXIST) fail_with(claimed.directory, "cannot be made");
  check_private(claimed.directory, true);
  claimed.lock = try_lock(claimed.directory);
  if (!claimed.lock) {
    throw MachineError(Errno::Eexist, "machine " + std::string(name) +
                                          " is there already, or is being started or ended; see perdure machine list");
  }
  empty_out(claimed.directory);
  return claimed;
}

bool tidy(const Found& stale) {
  const host::Descriptor lock = try_lock(stale.directory);
  if (!lock) return false;
  remove_locked(stale.directory);
  return true;
}

void remove_locked(const fs::path& directory) {
  empty_out(directory);
  std::error_code ignored;
  fs::remove(directory / kLock, ignored);
  fs::remove(directory, ignored);
}

fs::path machine_socket(std::string_view name) {
  const Found found = find_machine(name);
  switch (found.state) {
    case Found::State::Running: return found.directory / kKernelSocket;
    case Found::State::Starting:
      throw MachineError(Errno::Eagain, "machine " + std::string(name) + " is being started, or ended");
    case Found::State::Stale:
      throw MachineError(Errno::Eestale, "machine " + std::string(name) +
                                             " ended unexpectedly; perdure machine log shows what it said last");
    case Found::State::Absent: break;
  }
  throw MachineError(Errno::Enoent, "there is no machine " + std::string(name) + "; perdure machine up " +
                                        std::string(name) + " starts it");
}

}  // namespace perdure::tool
