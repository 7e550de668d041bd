#include "tool/machine/machine_log.h"

#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "tool/machine/runtime_directory.h"

namespace perdure::tool {

namespace {

// UTC, to the millisecond.
std::string now_text() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts = {};
  gmtime_r(&now.tv_sec, &parts);
  char date[32];
  const usize n = strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
  char millis[16];
  std::snprintf(millis, sizeof millis, ".%03uZ", static_cast<unsigned>(now.tv_nsec / 1'000'000) % 1000);
  return std::string(date, n) + millis;
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // a full disk is no reason for a machine to stop
    text.remove_prefix(static_cast<usize>(n));
  }
}

// A kernel writes names that programs chose: nothing in a line may steer a terminal.
std::string harmless(std::string_view line) {
  std::string clean(line);
  for (char& c : clean) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7F) c = '?';
  }
  return clean;
}

}  // namespace

MachineLog::MachineLog(std::filesystem::path file, u64 limit, bool echo)
    : file_(std::move(file)), limit_(limit), echo_(echo) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    throw MachineError(static_cast<Errno>(errno), std::string("no pipe for the log: ") + std::strerror(errno));
  }
  read_ = host::Descriptor(ends[0]);
  write_ = host::Descriptor(ends[1]);
  fcntl(read_.get(), F_SETFL, O_NONBLOCK);
  rotate_locked();
  if (!out_) {
    throw MachineError(static_cast<Errno>(errno), file_.string() + ": cannot be made: " + std::strerror(errno));
  }
}

void MachineLog::rotate_locked() {
  if (out_) {
    std::filesystem::path former = file_;
    former += ".1";
    std::error_code ignored;
    std::filesystem::rename(file_, former, ignored);
  }
  out_ = host::Descriptor(open(file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  written_ = 0;
}

void MachineLog::put_locked(std::string_view line) {
  const std::string text = now_text() + " " + harmless(line);
  if (written_ != 0 && written_ + text.size() + 1 > limit_) rotate_locked();
  if (out_) write_all(out_.get(), text + "\n");
  written_ += text.size() + 1;
  if (echo_) write_all(STDERR_FILENO, harmless(line) + "\n");
  lines_.push_back(text);
  if (lines_.size() > kKept) lines_.pop_front();
  ++count_;
  came_.notify_all();
}

void MachineLog::take_locked() {
  char chunk[4096];
  for (;;) {
    const ssize_t n = read(read_.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    unfinished_.append(chunk, static_cast<usize>(n));
    usize from = 0;
    for (usize end; (end = unfinished_.find('\n', from)) != std::string::npos; from = end + 1) {
      put_locked(std::string_view(unfinished_).substr(from, end - from));
    }
    unfinished_.erase(0, from);
    if (unfinished_.size() > kLongestLine) {
      put_locked(unfinished_);
      unfinished_.clear();
    }
  }
}

void MachineLog::run(int stop) {
  for (;;) {
    pollfd fds[] = {{read_.get(), POLLIN, 0}, {stop, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    sync();
    if (fds[1].revents != 0) return;
  }
}

void MachineLog::sync() {
  const std::scoped_lock lock(mutex_);
  take_locked();
}

void MachineLog::say(std::string_view line) {
  const std::scoped_lock lock(mutex_);
  take_locked();
  put_locked("machine: " + std::string(line));
}

u64 MachineLog::last() const {
  const std::scoped_lock lock(mutex_);
  return count_;
}

std::vector<std::string> MachineLog::after(u64& number) const {
  const std::scoped_lock lock(mutex_);
  const u64 gone = count_ - lines_.size();
  const u64 from = number > gone ? number - gone : 0;
  number = count_;
  if (from >= lines_.size()) return {};
  return {lines_.begin() + static_cast<std::ptrdiff_t>(from), lines_.end()};
}

bool MachineLog::wait(u64 number, int timeout_ms) const {
  std::unique_lock lock(mutex_);
  return came_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return count_ > number; });
}

}  // namespace perdure::tool
