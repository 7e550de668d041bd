// A machine as files: what a power-saving computer writes before it switches off, RAM and registers, plus the oracle's
// ledger.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>

#include "core/base/scope_guard.h"
#include "machine/board/board.h"
#include "machine/board/config_file.h"
#include "machine/board/sparse_file.h"
#include "machine/board/state_file.h"

namespace perdure::board {
namespace {

namespace fs = std::filesystem;
constexpr u32 kVersion = 2;

[[noreturn]] void refuse(const std::string& what, const fs::path& path) {
  throw std::runtime_error("board: " + what + " " + path.string() + ": " + std::strerror(errno));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Copies what exists of [from, from + length) of one file to `to` in the other.
void copy_stretches(int in, u64 from, int out, u64 to, u64 length, const fs::path& path) {
  constexpr usize kPiece = usize{1} << 20;
  const std::unique_ptr<std::byte[]> buffer(new std::byte[kPiece]);
  bool good = true;
  each_data_stretch(in, from, from + length, [&](u64 begin, u64 end) {
    for (u64 at = begin; good && at < end;) {
      const ssize_t got = pread(in, buffer.get(), std::min<u64>(kPiece, end - at), static_cast<off_t>(at));
      if (got == 0) return;  // the end of the file
      good = got > 0 && pwrite(out, buffer.get(), static_cast<usize>(got), static_cast<off_t>(to + (at - from))) == got;
      at += static_cast<u64>(std::max<ssize_t>(got, 0));
    }
  });
  if (!good) refuse("cannot copy memory to or from", path);
}

u64 checksum(std::span<const std::byte> bytes) {
  u64 h = bytes.size();
  for (usize i = 0; i < bytes.size(); i += 8) {
    u64 word = 0;
    std::memcpy(&word, &bytes[i], std::min<usize>(8, bytes.size() - i));
    h = mix64(h ^ word);
  }
  return h;
}

fs::path bank_file(const fs::path& directory, usize index) {
  return directory / ("bank-" + std::to_string(index) + ".img");
}

}  // namespace

std::vector<std::byte> Board::save_registers() {
  if (running()) throw std::runtime_error("board: save() of a running board; stop() it first");
  flush_messages();
  StateWriter out;
  out.section("board");
  out.put(now_ns());
  out.put(random_.state());
  out.put(phase());
  {
    const DeviceGuard guard(latch_lock_);
    latch_.save(out);
  }
  out.put(blocked_messages());
  out.put<u64>(units_.size());
  for (usize i = 0; i < units_.size(); ++i) out.blob(unit(i).save());
  out.blob(shadow_ ? shadow_->save() : std::vector<std::byte>{});
  bus_.save(out);
  return out.bytes();
}

void Board::load_registers(std::span<const std::byte> bytes) {
  StateReader in(bytes);
  in.section("board");
  frozen_ns_.store(in.get<u64>(), std::memory_order_release);
  random_.set_state(in.get<u64>());
  phase_.store(in.get<Phase>(), std::memory_order_release);
  {
    const DeviceGuard guard(latch_lock_);
    latch_.load(in);
  }
  blocked_messages_.store(in.get<u64>(), std::memory_order_relaxed);
  if (in.get<u64>() != units_.size()) throw StateError("saved machine: number of IOMMU units");
  for (usize i = 0; i < units_.size(); ++i) {
    if (!unit(i).restore(in.blob())) throw StateError("saved machine: registers of an IOMMU unit");
  }
  const std::span<const std::byte> shadow = in.blob();
  if (shadow_ && !shadow_->restore(shadow)) throw StateError("saved machine: write-back shadow");
  bus_.load(in);
  if (!in.at_end()) throw StateError("saved machine: more registers than expected");
}

void Board::save(const fs::path& directory) {
  const std::vector<std::byte> registers = save_registers();
  fs::create_directories(directory);

  StateWriter out;
  out.section("perdure machine");
  out.put(kVersion);
  out.section("config");
  out.text(write_board(config_));
  out.blob(registers);

  const auto create = [](const fs::path& path, u64 size) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) refuse("cannot create", path);
    return fd;
  };
  const fs::path ram_path = directory / "ram.img";
  const Descriptor ram(create(ram_path, memory_.ram_bytes()));
  copy_stretches(memory_.ram_fd(), 0, ram.get(), 0, memory_.ram_bytes(), ram_path);

  // Each bank's part of its file goes into an image of its own; size and seals of the file beside it.
  const std::vector<Bank> banks = memory_.banks();
  out.section("banks");
  out.put<u64>(banks.size());
  for (usize i = 0; i < banks.size(); ++i) {
    const Bank& b = banks[i];
    const Result<int> fd = memory_.bank_fd(b.host_id);
    if (!fd) throw std::runtime_error("board: cannot open the memory of a bank");
    const Descriptor file(*fd);
    struct stat st{};
    if (fstat(file.get(), &st) != 0) throw std::runtime_error("board: cannot ask for the size of a bank's memory");
    out.put(b.base.value);
    out.put(b.length);
    out.put(b.offset);
    out.put(b.host_id);
    out.put<u64>(static_cast<u64>(st.st_size));
    out.put<s32>(fcntl(file.get(), F_GET_SEALS));  // -1: a file that knows none
    const fs::path path = bank_file(directory, i);
    const Descriptor image(create(path, b.length));
    copy_stretches(file.get(), b.offset, image.get(), 0, b.length, path);
  }

  const u64 sum = checksum(out.bytes());
  out.put(sum);
  std::ofstream file(directory / "machine.state", std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(out.bytes().data()), static_cast<std::streamsize>(out.bytes().size()));
  file.close();
  if (!file) refuse("cannot write", directory / "machine.state");
}

std::unique_ptr<Board> Board::load(const fs::path& directory) {
  std::ifstream file(directory / "machine.state", std::ios::binary);
  if (!file) refuse("cannot read", directory / "machine.state");
  const std::string raw((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::span<const std::byte> bytes = std::as_bytes(std::span(raw));
  u64 sum = 0;
  if (bytes.size() < sizeof(sum)) throw StateError("saved machine: the file ends too early");
  std::memcpy(&sum, bytes.last(sizeof(sum)).data(), sizeof(sum));
  bytes = bytes.first(bytes.size() - sizeof(sum));
  if (sum != checksum(bytes)) throw StateError("saved machine: the file is damaged (checksum)");
  StateReader in(bytes);
  in.section("perdure machine");
  if (in.get<u32>() != kVersion) throw StateError("saved machine: of another version");
  in.section("config");
  auto board = std::make_unique<Board>(parse_board(in.text(), (directory / "machine.state").string()));

  const std::span<const std::byte> registers = in.blob();

  const fs::path ram_path = directory / "ram.img";
  const Descriptor ram(open(ram_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (ram.get() < 0) refuse("cannot read", ram_path);
  copy_stretches(ram.get(), 0, board->memory_.ram_fd(), 0, board->memory_.ram_bytes(), ram_path);

  in.section("banks");
  std::map<u64, std::unique_ptr<Descriptor>> files;  // by former id
  std::map<u64, s32> seals;
  std::map<u64, u64> renamed;
  const u64 count = in.get<u64>();
  for (usize i = 0; i < count; ++i) {
    const auto base = in.get<u64>();
    const auto length = in.get<u64>();
    const auto offset = in.get<u64>();
    const auto id = in.get<u64>();
    const auto size = in.get<u64>();
    seals[id] = in.get<s32>();
    if (!files.contains(id)) {
      const int fd = memfd_create("perdure-bank", MFD_CLOEXEC | MFD_ALLOW_SEALING);
      files[id] = std::make_unique<Descriptor>(fd);
      if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) refuse("cannot create memory for", directory);
    }
    const int fd = files[id]->get();
    const fs::path path = bank_file(directory, i);
    const Descriptor image(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (image.get() < 0) refuse("cannot read", path);
    copy_stretches(image.get(), 0, fd, offset, length, path);
    // Pages behind the end of the file were of no use to anybody.
    if (ftruncate(fd, static_cast<off_t>(size)) != 0) refuse("cannot size memory for", path);
    const Result<Bank> bank = board->memory_.attach(fd, offset, length, base);
    if (!bank) throw StateError("saved machine: a bank that does not fit");
    renamed[id] = bank->host_id;
  }
  for (const auto& [id, fd] : files) {
    // F_SEAL_FUTURE_WRITE and the like hold for mappings to come; ours stands.
    if (seals[id] > 0) fcntl(fd->get(), F_ADD_SEALS, seals[id]);
  }
  if (!in.at_end()) throw StateError("saved machine: more bytes than expected");
  // Memory came before registers: a unit may look at what they point to.
  board->load_registers(registers);
  for (usize i = 0; i < board->bus_.size(); ++i) {
    Device& d = board->bus_.at(i);
    const DeviceGuard guard(d.lock());
    d.ledger().rename_hosts(renamed);
  }
  return board;
}

}  // namespace perdure::board
