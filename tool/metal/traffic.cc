#include "tool/metal/traffic.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace perdure::tool::metal {

namespace {

constexpr u64 kGold = 0x9E3779B97F4A7C15;
constexpr u64 kDiskSalt = 0x6E766D65;
constexpr usize kBlock = 512;
constexpr usize kHeader = 32;

// splitmix64.
u64 mix64(u64 x) {
  x += kGold;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

void store(unsigned char* to, u64 value, usize bytes) {
  for (usize i = 0; i < bytes; ++i) to[i] = static_cast<unsigned char>(value >> (8 * i));
}

}  // namespace

std::vector<unsigned char> frame(u64 sequence, u32 seed) {
  std::vector<unsigned char> f(64 + 8 * (sequence % 21));
  std::memset(f.data(), 0xFF, 6);
  constexpr unsigned char kSource[] = {0x02, 0, 0, 0, 0, 0x01};
  std::memcpy(f.data() + 6, kSource, sizeof kSource);
  // For local experiments (IEEE 802).
  f[12] = 0x88;
  f[13] = 0xB5;
  store(&f[14], f.size(), 2);
  store(&f[16], sequence, 8);
  store(&f[24], seed, 4);
  const u64 first = mix64(seed ^ sequence);
  for (usize i = 0; kHeader + 8 * i < f.size(); ++i) store(&f[kHeader + 8 * i], first + i * kGold, 8);
  return f;
}

u64 disk_word(u64 block, unsigned index) {
  return mix64(block + kDiskSalt) + index * kGold;
}

std::expected<void, std::string> write_disk(const std::filesystem::path& to) {
  const auto fault = [&] { return std::unexpected(fmt::format("{}: {}", to.string(), std::strerror(errno))); };
  std::vector<unsigned char> image(kDiskBytes);
  for (u64 block = 0; block < kDiskBytes / kBlock; ++block) {
    for (unsigned i = 0; i < kBlock / 8; ++i) store(&image[block * kBlock + 8 * usize{i}], disk_word(block, i), 8);
  }
  const host::Descriptor file(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return fault();
  for (usize done = 0; done < image.size();) {
    const ssize_t n = write(file.get(), image.data() + done, image.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fault();
    done += static_cast<usize>(n);
  }
  return {};
}

Feeder::Feeder(host::Descriptor wire, u32 seed, u32 frames_a_second)
    : wire_(std::move(wire)), stop_(eventfd(0, EFD_CLOEXEC)) {
  if (!stop_) throw std::runtime_error(fmt::format("no eventfd: {}", std::strerror(errno)));
  thread_ = std::thread([this, seed, frames_a_second] { run(seed, frames_a_second); });
}

Feeder::~Feeder() {
  const u64 one = 1;
  // An eventfd that nobody writes to takes it.
  while (write(stop_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
  thread_.join();
}

void Feeder::run(u32 seed, u32 frames_a_second) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kBurst = std::chrono::milliseconds(1);
  const u64 per_burst = std::max<u64>(frames_a_second / 1000, 1);
  auto due = Clock::now();
  std::vector<unsigned char> bytes;
  for (u64 sequence = 0;;) {
    bytes.clear();
    for (u64 i = 0; i < per_burst; ++i, ++sequence) {
      const std::vector<unsigned char> f = frame(sequence, seed);
      const auto length = static_cast<u32>(f.size());
      for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<unsigned char>(length >> shift));
      bytes.insert(bytes.end(), f.begin(), f.end());
    }
    if (!send_all(bytes)) return;
    // What the guest held up is not made up for.
    due = std::max(due + kBurst, Clock::now());
    const auto wait = std::chrono::duration_cast<std::chrono::nanoseconds>(due - Clock::now()).count();
    const timespec rest{.tv_sec = 0, .tv_nsec = std::max<s64>(wait, 0)};
    pollfd p = {stop_.get(), POLLIN, 0};
    if (ppoll(&p, 1, &rest, nullptr) > 0) return;
  }
}

// False: nobody listens any more, or we are to stop.
bool Feeder::send_all(const std::vector<unsigned char>& bytes) {
  for (usize done = 0; done < bytes.size();) {
    const ssize_t n = send(wire_.get(), bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      done += static_cast<usize>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return false;
    pollfd p[] = {{wire_.get(), POLLOUT, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno != EINTR) return false;
    if ((p[1].revents & POLLIN) != 0) return false;
  }
  return true;
}

}  // namespace perdure::tool::metal
