#include "machine/intercept/paths.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdio>
#include <vector>

namespace perdure::intercept {

namespace {

constexpr unsigned kMostLinks = 40;  // Linux's

// The parts of a path that are to be gone through, last one first.
using Parts = std::vector<std::string>;

void push(Parts& parts, std::string_view path) {
  for (usize end = path.size(); end > 0;) {
    const usize slash = path.rfind('/', end - 1);
    const usize begin = slash == std::string_view::npos ? 0 : slash + 1;
    if (begin < end) parts.emplace_back(path.substr(begin, end - begin));
    end = slash == std::string_view::npos ? 0 : slash;
  }
}

bool number(std::string_view text, s32& value) {
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  return !text.empty() && parsed.ec == std::errc{} && parsed.ptr == end && value >= 0;
}

// "/proc/PROCESS[/task/THREAD]/fd/N"
struct ProcFd {
  s32 process = 0;
  s32 thread = 0;
  s32 fd = 0;
};
std::optional<ProcFd> proc_fd(std::string_view path) {
  constexpr std::string_view kProc = "/proc/";
  if (!path.starts_with(kProc)) return std::nullopt;
  Parts parts;
  push(parts, path.substr(kProc.size()));
  ProcFd found;
  const bool thread = parts.size() == 5 && parts[3] == "task" && number(parts[2], found.thread);
  if (!thread && parts.size() != 3) return std::nullopt;
  if (!number(parts.back(), found.process) || parts[1] != "fd" || !number(parts[0], found.fd)) return std::nullopt;
  if (!thread) found.thread = found.process;
  return found;
}

// "/proc/PROCESS/status", of a thread of it, too; else 0.
s32 status_of(std::string_view path) {
  constexpr std::string_view kProc = "/proc/";
  if (!path.starts_with(kProc) || !path.ends_with("/status")) return 0;
  Parts parts;
  push(parts, path.substr(kProc.size()));
  s32 process = 0;
  s32 thread = 0;
  if (!number(parts.back(), process)) return 0;
  if (parts.size() == 2) return process;
  return parts.size() == 4 && parts[2] == "task" && number(parts[1], thread) ? process : 0;
}

// The program may have another root directory than we do.
std::string root_of(const Target& target) {
  struct stat theirs = {};
  struct stat ours = {};
  const std::string path = target.proc("root");
  if (stat(path.c_str(), &theirs) != 0 || stat("/", &ours) != 0) return {};
  return theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino ? std::string() : path;
}

}  // namespace

// Empty: nowhere that we could know.
Result<std::string> Paths::start(const Target& target, s32 directory) const {
  std::string at = TRY(target.link(directory == AT_FDCWD ? "cwd" : "fd/" + std::to_string(directory)));
  if (std::string ours = shadow_.path_of(at); !ours.empty()) return ours;
  if (!at.starts_with('/') || at.ends_with(" (deleted)")) return std::string();
  return at;
}

std::optional<Registry::Entry> Paths::open_file(const Target& target, const std::string& path) const {
  const auto link = proc_fd(path);
  if (!link) return std::nullopt;
  const Target whose = link->process == target.process() && link->thread == link->process
                           ? target  // its own: those of the thread that asks
                           : Target(link->process, link->thread);
  const auto id = whose.file_id(link->fd);
  return id ? registry_.find(*id) : std::nullopt;
}

Result<Found> Paths::find(const Target& target, s32 directory, const std::string& path, bool follow) const {
  if (path.empty()) return Found{};
  std::string at;
  if (path.front() != '/') {
    const auto begin = start(target, directory);
    if (!begin || begin->empty()) return Found{};
    if (*begin != "/") at = *begin;
  }
  Parts parts;
  push(parts, path);
  const bool directory_wanted = path.back() == '/';
  const std::string root = root_of(target);
  Found found;
  unsigned links = 0;
  while (!parts.empty()) {
    const std::string part = std::move(parts.back());
    parts.pop_back();
    if (part == ".") continue;
    if (part == "..") {
      if (!at.empty()) at.resize(at.rfind('/'));
      continue;
    }
    std::string next = at;
    next.append(1, '/').append(part);
    const bool last = parts.empty();
    if (next == "/proc/self") {
      push(parts, std::to_string(target.process()));
      at = "/proc";
      continue;
    }
    if (next == "/proc/thread-self") {
      push(parts, std::to_string(target.process()) + "/task/" + std::to_string(target.thread()));
      at = "/proc";
      continue;
    }
    if (last) {
      if (auto open = open_file(target, next)) return Found{.path = next, .open_file = std::move(open)};
    }
    const Node node = shadow_.find(next);
    std::string to;
    switch (node.kind) {
      case Node::Kind::Absent: return Found{.path = next, .node = node};
      case Node::Kind::File:
      case Node::Kind::Device:
        if (!last || directory_wanted) return fail(Errno::Enotdir);
        break;
      case Node::Kind::Link:
        if (!last || follow || directory_wanted) to = node.text;
        break;
      case Node::Kind::Foreign:
        if (!last || follow || directory_wanted) {
          const auto text = try_read_link(root + next);
          if (!text) return Found{};  // nothing is there, so nothing of ours is below it
          to = *text;
        }
        break;
      case Node::Kind::Through:
      case Node::Kind::Directory: break;
    }
    if (to.empty()) {
      at = std::move(next);
      continue;
    }
    if (++links > kMostLinks) return fail(Errno::Eloop);
    found.by_link = true;
    if (to.front() == '/') at.clear();
    push(parts, to);
  }
  found.path = at.empty() ? "/" : at;
  found.node = shadow_.find(found.path);
  found.status_of = status_of(found.path);
  return found;
}

}  // namespace perdure::intercept
