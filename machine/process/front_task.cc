#include "machine/process/front_task.h"

#include <algorithm>
#include <cstring>

#include "machine/host/memory_access.h"
#include "machine/process/wrapped_file.h"

namespace perdure::process {

using wire::Question;

namespace {
u32 number(Question q) {
  return static_cast<u32>(q);
}
}  // namespace

Result<wire::Message> FrontTask::ask(const wire::Header& question, std::span<const std::byte> payload, int fd) {
  wire::Header about = question;
  about.d = call_;
  TRY(channel_.send(about, payload, fd));
  auto answer = channel_.receive();
  if (!answer) {
    broken_ = true;
    return answer;
  }
  if (answer->head.op != number(Question::Answer)) return fail(malformed());
  if (answer->head.result != 0) return fail(static_cast<Errno>(answer->head.result));
  if (answer->fd_lost) return fail(Errno::Enfile);
  return answer;
}

Errno FrontTask::malformed() {
  broken_ = true;
  return Errno::Eproto;
}

Result<std::span<std::byte>> FrontTask::value_at(UserAddr at, usize bytes) const {
  if (at < kValueAt || at - kValueAt > value_.size() || bytes > value_.size() - (at - kValueAt))
    return fail(Errno::Efault);
  return value_.subspan(at - kValueAt, bytes);
}

Result<void> FrontTask::copy_in(std::span<std::byte> to, UserAddr from) {
  if (!value_.empty()) {
    const auto here = TRY(value_at(from, to.size()));
    std::memcpy(to.data(), here.data(), to.size());
    return {};
  }
  if (!read_ahead(from.value, to.size())) return copy_in_of(wire::tgid_of(task_), to, from);
  std::memcpy(to.data(), ahead_.data() + (from.value - ahead_at_), to.size());
  return {};
}

bool FrontTask::read_ahead(u64 from, usize bytes) {
  if (from >= ahead_at_ && from - ahead_at_ <= ahead_bytes_ && bytes <= ahead_bytes_ - (from - ahead_at_)) return true;
  // Within a page: where its first byte can be read, so can the others.
  const usize n = std::min<u64>(kAhead, kPageSize - from % kPageSize);
  const u32 tgid = wire::tgid_of(task_);
  ahead_bytes_ = 0;
  if (tgid == 0 || bytes > n || !host::read_memory_of(static_cast<pid_t>(tgid), std::span(ahead_).first(n), from)) {
    return false;
  }
  ahead_at_ = from;
  ahead_bytes_ = n;
  return true;
}

Result<void> FrontTask::copy_in_of(u32 tgid, std::span<std::byte> to, UserAddr from) {
  if (tgid != 0) {
    const auto done = host::read_memory_of(static_cast<pid_t>(tgid), to, from.value);
    if (done || done.error() == Errno::Efault) return done;
    if (done.error() != Errno::Eperm) return fail(Errno::Efault);
  }
  for (usize done = 0; done < to.size();) {
    const usize n = std::min(to.size() - done, wire::kMaxPayload);
    const wire::Message m =
        TRY(ask({.op = number(Question::CopyIn), .a = from.value + done, .b = n, .task = task_for(tgid)}));
    if (m.payload.size() != n) return fail(malformed());
    std::memcpy(to.data() + done, m.payload.data(), n);
    done += n;
  }
  return {};
}

Result<void> FrontTask::copy_out(UserAddr to, std::span<const std::byte> from) {
  if (!value_.empty()) {
    const auto here = TRY(value_at(to, from.size()));
    std::memcpy(here.data(), from.data(), from.size());
    return {};
  }
  ahead_bytes_ = 0;  // it may be what is written to
  const u32 tgid = wire::tgid_of(task_);
  if (slots_.empty()) return copy_out_of(tgid, to, from);
  // Fields of structures are aligned in them.
  std::vector<std::byte> patched(from.begin(), from.end());
  for (usize at = 0; at + sizeof(s32) <= patched.size(); at += sizeof(s32)) {
    s32 word = 0;
    std::memcpy(&word, &patched[at], sizeof word);
    Slot* const found = slot(word);
    if (!found) continue;
    if (found->number < 0) {
      found->written.push_back(to + at);
    } else {
      std::memcpy(&patched[at], &found->number, sizeof found->number);
    }
  }
  return copy_out_of(tgid, to, patched);
}

Result<void> FrontTask::copy_out_of(u32 tgid, UserAddr to, std::span<const std::byte> from) {
  if (tgid != 0) {
    const auto done = host::write_memory_of(static_cast<pid_t>(tgid), to.value, from);
    if (done || done.error() == Errno::Efault) return done;
    if (done.error() != Errno::Eperm) return fail(Errno::Efault);
  }
  for (usize done = 0; done < from.size();) {
    const usize n = std::min(from.size() - done, wire::kMaxPayload);
    TRY(ask({.op = number(Question::CopyOut), .a = to.value + done, .task = task_for(tgid)}, from.subspan(done, n)));
    done += n;
  }
  return {};
}

Result<Ref<Process>> FrontTask::process() {
  return Ref<Process>(TRY(front_.process(wire::tgid_of(task_))));
}

Result<void> FrontTask::resolve(UserAddr at, u64 length, Access access,
                                FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  const Ref<FrontProcess> mine = TRY(front_.process(wire::tgid_of(task_)));
  return resolve_of(*mine, at, length, access, piece);
}

Result<void> FrontTask::resolve_of(FrontProcess& process, UserAddr at, u64 length, Access access,
                                   FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  if (!value_.empty()) return fail(Errno::Efault);
  for (u64 done = 0; done < length;) {
    const u64 here = at.value + done;
    wire::Message m = TRY(ask({.op = number(Question::Resolve),
                               .a = here,
                               .b = length - done,
                               .c = static_cast<u64>(access),
                               .task = task_for(process.tgid())}));
    const u64 bytes = m.head.b;
    if (bytes == 0 || bytes > length - done) return fail(malformed());
    if (m.head.c == static_cast<u64>(wire::Piece::Remote)) {
      TRY(piece(TRY(process.remote_piece(here, bytes, std::move(m.fd))), here % kPageSize, bytes));
    } else {
      if (m.head.c != static_cast<u64>(wire::Piece::Shared) || !m.fd) return fail(malformed());
      const Ref<File> wrapped = TRY(wrap_host_file(front_.host_files, front_.host_objects, std::move(m.fd)));
      auto* memory = file_cast<SharedMemory>(wrapped.get());
      if (!memory) return fail(Errno::Efault);
      TRY(piece(Ref<SharedMemory>(memory), m.head.a, bytes));
    }
    done += bytes;
  }
  return {};
}

Result<Task::OwnMapping> FrontTask::own_mapping(UserAddr at, u64 length, Access access) {
  if (!value_.empty()) return fail(Errno::Efault);
  const wire::Message m =
      TRY(ask({.op = number(Question::OwnMapping), .a = at.value, .c = static_cast<u64>(access), .task = task_}));
  if (m.head.b < length) return fail(Errno::Efault);
  return OwnMapping {
    TRY(front_.find(m.head.a))
    , m.head.c
  };
}

Result<Ref<File>> FrontTask::file(s32 fd) {
  if (fd < 0) return fail(Errno::Ebadf);
  wire::Message m = TRY(ask({.op = number(Question::Descriptor), .a = static_cast<u64>(fd), .task = task_}));
  if (m.head.a != wire::kNoHandle) return front_.find(m.head.a);
  if (!m.fd) return fail(malformed());
  return wrap_host_file(front_.host_files, front_.host_objects, std::move(m.fd));
}

FrontTask::Slot* FrontTask::slot(s32 placeholder) {
  for (Slot& s : slots_) {
    if (s.placeholder == placeholder) return &s;
  }
  return nullptr;
}

Result<s32> FrontTask::reserve_fd() {
  TRY(ask({.op = number(Question::MayInstall), .task = task_}));
  slots_.push_back({next_placeholder_, -1, {}});
  return next_placeholder_++;
}

void FrontTask::release_fd(s32 fd) {
  std::erase_if(slots_, [fd](const Slot& s) { return s.placeholder == fd; });
}

Result<s32> FrontTask::install(s32 placeholder, Ref<File> file) {
  wire::Header question{.op = number(Question::Install),
                        .a = static_cast<u64>(static_cast<u32>(placeholder)),
                        .b = wire::kNoHandle,
                        .c = wire::kCloseOnExec,
                        .task = task_};
  // Memory is the host's, and lives there.
  const int host = host_descriptor(*file);
  if (host < 0) question.b = TRY(front_.insert(file));
  const auto answer = ask(question, std::as_bytes(std::span(file->type().name)), host);
  if (answer && answer->head.a <= 0x7fffffff) return static_cast<s32>(answer->head.a);
  if (host < 0) (void)front_.close(question.b);
  if (answer) broken_ = true;
  return fail(answer ? Errno::Eproto : answer.error());
}

void FrontTask::install_fd(s32 fd, Ref<File> file) {
  Slot* const found = slot(fd);
  if (!found) return;
  const auto installed = install(fd, std::move(file));
  found->number = installed ? *installed : -1;
  if (!installed) install_error_ = installed.error();
  // Where that is impossible now, the program unmapped what it had passed.
  for (const UserAddr at : found->written)
    (void)copy_out_of(wire::tgid_of(task_), at, std::as_bytes(std::span(&found->number, 1)));
  found->written.clear();
}

Result<u64> FrontTask::finish(Result<u64> value) const {
  if (!value) return value;
  if (install_error_ != Errno{}) return fail(install_error_);
  for (const Slot& s : slots_) {
    if (*value == static_cast<u64>(s.placeholder)) return static_cast<u64>(s.number);
  }
  return value;
}

}  // namespace perdure::process
