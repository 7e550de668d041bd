#include "machine/process/connection.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "machine/process/devices.h"
#include "machine/process/status.h"

namespace perdure::process {

using wire::Call;

namespace {

std::string_view text_of(const wire::Message& m) {
  return {reinterpret_cast<const char*>(m.payload.data()), m.payload.size()};
}

Access access_of(u64 prot) {
  const bool read = (prot & PROT_READ) != 0;
  const bool write = (prot & PROT_WRITE) != 0;
  return read && write ? Access::ReadWrite : write ? Access::Write : Access::Read;
}

}  // namespace

Connection::~Connection() {
  if (is_events_) front_->clear_events();
}

void Connection::run() {
  for (bool first = true;; first = false) {
    auto call = channel_.receive();
    if (!call) return;
    const auto op = static_cast<Call>(call->head.op);
    Outcome outcome;
    Result<void> done;
    bool broken = false;
    if (first && op == Call::Front && call->head.a != 0) {
      auto joined = fronts_.join(call->head.a);
      if (joined) front_ = std::move(*joined);
      if (!joined) done = fail(joined.error());
    } else if (!front_) {
      front_ = fronts_.create();
    }
    if (first && op == Call::Front) {
      if (done) outcome.head.a = front_->id;
    } else {
      FrontTask task(*front_, channel_, creds_, call->head.task);
      done = serve(*call, task, outcome);
      broken = task.broken() || lost_;
    }
    if (!done) {
      outcome = {};
      outcome.head.result = static_cast<s32>(done.error());
    }
    if (broken || !channel_.send(outcome.head, outcome.payload) || !front_) return;
    if (is_events_) {
      channel_.stop_sharing();
      front_->set_events(channel_);
      return serve_events();
    }
  }
}

// Whoever sends events reads what is said to them; here only the end is waited for.
void Connection::serve_events() {
  pollfd p = {channel_.socket(), POLLRDHUP, 0};
  while (poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
}

Result<void> Connection::serve(wire::Message& call, FrontTask& task, Outcome& outcome) {
  const wire::Header& head = call.head;
  u64& value = outcome.head.a;
  if (call.fd_lost) return fail(Errno::Enfile);
  switch (static_cast<Call>(head.op)) {
    case Call::Open: value = TRY(open(call, outcome)); return {};
    case Call::Close: return front_->close(head.a);
    case Call::Ioctl: {
      const Ref<File> file = TRY(front_->find(head.a));
      task.set_maps_registers((head.d & wire::kNoRegisters) == 0);
      value = TRY(task.finish(file->ioctl(task, static_cast<u32>(head.b), UserAddr(head.c))));
      return {};
    }
    case Call::Read: {
      const Ref<File> file = TRY(front_->find(head.a));
      value = TRY(file->read(task, UserAddr(head.d), head.b, head.c));
      return {};
    }
    case Call::Write: {
      const Ref<File> file = TRY(front_->find(head.a));
      value = TRY(file->write(task, UserAddr(head.d), head.b, head.c));
      return {};
    }
    case Call::RegionRead:
    case Call::RegionWrite: value = TRY(region_access(head, task, outcome)); return {};
    case Call::Mmap: return mmap(call, task, outcome);
    case Call::Poll:
      value = TRY(front_->find(head.a))
      ->poll();
      return {};
    case Call::KexecLoad: return kernel_.kexec_load(text_of(call));
    case Call::Kexec: return kernel_.kexec();
    case Call::Status: value = TRY(text(head, outcome, [&] { return status_json(kernel_); })); return {};
    case Call::Devices:
      value = TRY(text(head, outcome, [&] { return devices_json(kernel_, drivers_); }));
      outcome.head.b = kernel_.next_is_loaded() ? 1 : 0;
      return {};
    case Call::SysfsWrite: {
      const std::string_view both = text_of(call);
      const usize cut = both.find('\0');
      if (cut == std::string_view::npos) return fail(Errno::Einval);
      return drivers_.write(both.substr(0, cut), both.substr(cut + 1));
    }
    case Call::Events:
      TRY(front_->claim_events());
      is_events_ = true;
      return {};
    case Call::TaskExit: front_->forget_process(wire::tgid_of(head.task)); return {};
    case Call::TaskMemory: {
      const Ref<FrontProcess> process = TRY(front_->process(wire::tgid_of(head.task)));
      value = process->pinned_pages();
      outcome.head.b = process->locked_pages();
      return {};
    }
    case Call::Lend: return lent_.take(call);
    case Call::Serve: return serve_lent(call, outcome);
    case Call::Front: return fail(Errno::Einval);  // not the first message
    default: break;
  }
  return fail(Errno::Enosys);
}

Result<u64> Connection::open(const wire::Message& call, Outcome& outcome) {
  Ref<File> file = TRY(kernel_.open(text_of(call)));
  const auto name = std::as_bytes(std::span(file->type().name));
  outcome.payload.assign(name.begin(), name.end());
  return front_->insert(std::move(file));
}

Result<u64> Connection::region_access(const wire::Header& call, FrontTask& task, Outcome& outcome) {
  if (call.b != 1 && call.b != 2 && call.b != 4 && call.b != 8) return fail(Errno::Einval);
  const Ref<File> file = TRY(front_->find(call.a));
  const bool write = call.op == static_cast<u32>(Call::RegionWrite);
  u64 value = write ? call.d : 0;
  task.use_value(value);
  const usize bytes = write ? TRY(file->write(task, FrontTask::kValueAt, call.b, call.c))
                            : TRY(file->read(task, FrontTask::kValueAt, call.b, call.c));
                            outcome.head.b = bytes;
                            return value;
}

Result<void> Connection::mmap(const wire::Message& call, FrontTask& task, Outcome& outcome) {
  const Ref<File> file = TRY(front_->find(call.head.a));
  const u64 prot = call.head.d & 0xffffffff;
  const MapTarget target = TRY(file->mmap(task, call.head.c, call.head.b, access_of(prot)));
  const bool memory = target.kind == MapTarget::Kind::Memory;
  if (memory && call.fd) TRY(machine_.move_memory_bar(target.base, call.fd.get(), call.head.c));
  outcome.head.a = static_cast<u64>(memory ? wire::Mapping::Memory : wire::Mapping::Registers);
  return {};
}

Result<void> Connection::serve_lent(const wire::Message& call, Outcome& outcome) {
  const auto back = lent_.serve(call, *front_, channel_, creds_);
  if (!back) {
    lost_ = back.error() == Errno::Ekilled;
    return fail(back.error());
  }
  outcome.head.a = back->served;
  if (!back->left) return {};
  wire::LeftCall left{.id = back->left->id, .args = {}, .thread = back->left->tid, .number = back->left->number};
  std::copy(back->left->args.begin(), back->left->args.end(), left.args);
  const auto bytes = std::as_bytes(std::span(&left, 1));
  outcome.payload.assign(bytes.begin(), bytes.end());
  return {};
}

template <class Make>
Result<u64> Connection::text(const wire::Header& call, Outcome& outcome, Make make) {
  if (call.a == 0) text_ = make();
  const usize from = std::min<u64>(call.a, text_.size());
  const auto piece =
      std::as_bytes(std::span(text_)).subspan(from).first(std::min(text_.size() - from, wire::kMaxPayload));
  outcome.payload.assign(piece.begin(), piece.end());
  return u64{text_.size()};
}

}  // namespace perdure::process
