// For LUO's own tests: files, handlers and shared states that write down what happens to them, and kernels with LUO
// that follow one another.
#pragma once
#include <set>
#include <string>

#include "core/luo/device.h"
#include "core/luo/memfd_handler.h"
#include "core/luo/session_file.h"
#include "core/uapi/liveupdate.h"
#include "tests/support/handover.h"
#include "tests/support/test_task.h"

namespace perdure::luo::test {

using perdure::test::Forgettable;
using perdure::test::Handover;
using perdure::test::TestMemfd;
using perdure::test::TestTask;
using Events = std::vector<std::string>;

class FakeFile final : public File {
 public:
  static constexpr FileType kType{"fake"};
  FakeFile(Events& events, u64 number, std::string_view kind) : events_(events), number_(number), kind_(kind) {}
  const FileType& type() const override { return kType; }
  u64 number() const { return number_; }
  std::string_view kind() const { return kind_; }

 protected:
  void last_close() override {
    // The contract of File: no lock is held.
    if (perdure_thread_context()->count != 0) events_.push_back("CLOSED UNDER A LOCK");
    events_.push_back("closed " + std::to_string(number_));
  }

 private:
  Events& events_;
  u64 number_;
  std::string_view kind_;
};

// Preserves FakeFiles of its kind; their number is the data.
class FakeHandler final : public FileHandler {
 public:
  FakeHandler(Heap& heap, Events& events, std::string name) : heap_(heap), events_(events), name_(std::move(name)) {}

  std::string_view compatible() const override { return name_; }
  bool can_preserve(File& file) const override {
    const auto* fake = file_cast<FakeFile>(&file);
    return fake != nullptr && fake->kind() == name_;
  }
  u64 id(File& file) const override { return static_cast<FakeFile&>(file).number(); }

  Result<void> preserve(FileState& s) override {
    event("preserve", s);
    if (refuse.contains("preserve")) return fail(Errno::Eopnotsupp);
    if (on_preserve) on_preserve(s);
    s.data = static_cast<FakeFile*>(s.file)->number();
    s.private_data = this;
    return {};
  }
  void unpreserve(FileState& s) override {
    event("unpreserve", s);
    expect(s.private_data == this && s.data == static_cast<FakeFile*>(s.file)->number());
  }
  Result<void> freeze(FileState& s) override {
    event("freeze", s);
    if (refuse.contains("freeze " + std::to_string(s.token))) return fail(Errno::Eagain);
    if (change_data) s.data += 1000;
    return {};
  }
  void unfreeze(FileState& s) override {
    event("unfreeze", s);
    if (change_data) s.data -= 1000;
  }
  Result<Ref<File>> retrieve(FileState& s) override {
    event("retrieve", s);
    expect(s.file == nullptr && s.retrieve_status == 0);
    if (refuse.contains("retrieve")) return fail(Errno::Enomem);
    if (on_retrieve) TRY(on_retrieve(s));
    return Ref<File>(TRY(heap_.make_ref<FakeFile>(events_, s.data, name_)));
  }
  bool can_finish(FileState& s) override {
    event("can_finish", s);
    return !refuse.contains("finish " + std::to_string(s.token));
  }
  void finish(FileState& s) override {
    event("finish", s);
    last_status = s.retrieve_status;
    expect((s.file != nullptr) == (s.retrieve_status == 1));
  }
  Result<u64> forward(FileState& s) override {
    event("forward", s);
    next_generation = s.session.next_generation();
    if (refuse.contains("forward")) return fail(Errno::Eopnotsupp);
    if (refuse.contains("forward " + std::to_string(s.token))) return fail(Errno::Enomem);
    return s.data + 5000;
  }
  void unforward(FileState& s, u64 outgoing) override {
    event("unforward", s);
    expect(outgoing == s.data + 5000);
  }

  std::set<std::string> refuse;
  bool change_data = false;
  std::function<void(FileState&)> on_preserve;
  std::function<Result<void>(FileState&)> on_retrieve;
  int last_status = 0;
  u64 next_generation = 0;

 private:
  void event(const char* what, const FileState& s) {
    events_.push_back(std::string(what) + " " + std::to_string(s.token));
  }
  void expect(bool ok) {
    if (!ok) events_.push_back("WRONG STATE");
  }
  Heap& heap_;
  Events& events_;
  std::string name_;
};

class FakeFlb final : public Flb {
 public:
  FakeFlb(Events& events, std::string name) : events_(events), name_(std::move(name)) {}
  std::string_view compatible() const override { return name_; }
  Result<u64> preserve() override {
    events_.push_back(name_ + " preserve");
    if (refuse.contains("preserve")) return fail(Errno::Enospc);
    return data = 7000 + name_.size();
  }
  void unpreserve(u64 d) override { events_.push_back(name_ + (d == data ? " unpreserve" : " WRONG DATA")); }
  Result<u64> freeze(u64 d) override {
    events_.push_back(name_ + (d == data ? " freeze" : " WRONG DATA"));
    if (refuse.contains("freeze")) return fail(Errno::Eio);
    return data = d + 1;
  }
  Result<void> retrieve(u64 d) override {
    events_.push_back(name_ + " retrieve " + std::to_string(d));
    if (refuse.contains("retrieve")) return fail(Errno::Eproto);
    return {};
  }
  void finish(u64 d) override { events_.push_back(name_ + " finish " + std::to_string(d)); }
  std::set<std::string> refuse;
  u64 data = 0;

 private:
  Events& events_;
  std::string name_;
};

// Kernels with LUO, two kinds of fake files ("a-file", "b-file") and shared memory.
class World {
 public:
  explicit World(u64 ram = u64{16} << 20) : machines(ram) {
    if (!boot()) throw std::runtime_error("boot");
  }
  ~World() {
    task.abandon();
    forget();
  }

  Luo& luo() { return *luo_; }
  Device& device() { return *device_; }
  Kho& kho() { return machines.kho(); }
  Heap& heap() { return machines.heap(); }
  HostFiles& files() { return *files_; }
  perdure::test::CountingSteps& steps() { return machines.machine.counting; }

  Ref<File> fake(u64 number, std::string_view kind = "a-file") {
    return *heap().make_ref<FakeFile>(events, number, kind);
  }
  s32 open_fake(u64 number, std::string_view kind = "a-file") { return task.open(fake(number, kind)); }
  Ref<SessionFile> create(std::string_view name) { return *SessionFile::create(luo(), name); }
  Result<Ref<SessionFile>> retrieve(std::string_view name) { return SessionFile::retrieve(luo(), name); }
  Result<void> preserve(SessionFile& session, s32 fd, u64 token) {
    const auto r = session.ioctl(task, uapi::kLiveupdateSessionPreserveFd,
                                 task.put(uapi::LiveupdatePreserveFd{sizeof(uapi::LiveupdatePreserveFd), fd, token}));
    if (!r) return fail(r.error());
    return {};
  }
  Result<s32> retrieve(SessionFile& session, u64 token) {
    const auto r = session.ioctl(task, uapi::kLiveupdateSessionRetrieveFd,
                                 task.put(uapi::LiveupdateRetrieveFd{sizeof(uapi::LiveupdateRetrieveFd), -1, token}));
    if (!r) return fail(r.error());
    return task.get<uapi::LiveupdateRetrieveFd>().fd;
  }
  Result<void> finish(SessionFile& session) {
    const auto r = session.ioctl(task, uapi::kLiveupdateSessionFinish,
                                 task.put(uapi::LiveupdateFinish{sizeof(uapi::LiveupdateFinish), 0}));
    if (!r) return fail(r.error());
    return {};
  }
  Events take_events() { return std::exchange(events, {}); }
  std::string last_line() { return machines.machine.lines.empty() ? "" : machines.machine.lines.back(); }
  bool logged(std::string_view text) {
    for (const auto& line : machines.machine.lines) {
      if (line.find(text) != std::string::npos) return true;
    }
    return false;
  }

  // serialize() must have succeeded. Session files in `held` belong to programs that die.
  void jump() {
    task.abandon();
    forget();
    if (!machines.jump()) throw std::runtime_error("jump");
    events.clear();
    machines.machine.lines.clear();
    load_result = boot();
  }
  void update() {
    if (const auto r = luo().serialize(); !r) throw std::runtime_error(std::string(errno_name(r.error())));
    jump();
  }
  // Orderly end of everything but the machine, for leak checks. Programs have closed their files.
  void shut_down() {
    device_.destroy();
    luo_.destroy();
    memfd_.destroy();
    files_.destroy();
    a.reset();
    b.reset();
  }
  // The next boot registers no handler of this kind.
  void leave_out(std::string kind) { left_out_ = std::move(kind); }

  Handover machines;
  TestTask task;
  Events events;
  std::unique_ptr<FakeHandler> a, b;
  std::unique_ptr<FakeFlb> one, two;
  bool with_flbs = false;
  u64 fail_load_at = 0;  // the nth allocation of Luo::load_incoming()
  Result<void> load_result;
  // What a forgotten program held.
  std::vector<Ref<File>> held;

 private:
  void forget() {
    for (Ref<File>& f : held) (void)f.release();
    held.clear();
    device_.forget();
    luo_.forget();
    memfd_.forget();
    files_.forget();
  }
  Result<void> boot() {
    files_.make(heap());
    Luo& luo = luo_.make(kho());
    steps().allocations = 0;
    steps().fail_at = fail_load_at;
    const auto loaded = luo.load_incoming();
    steps().fail_at = 0;
    if (const auto r = luo.init(); !r) return r;
    a = std::make_unique<FakeHandler>(heap(), events, "a-file");
    b = std::make_unique<FakeHandler>(heap(), events, "b-file");
    MemfdHandler& memfd = memfd_.make(kho(), *files_);
    for (FileHandler* handler :
         {static_cast<FileHandler*>(a.get()), static_cast<FileHandler*>(b.get()), static_cast<FileHandler*>(&memfd)}) {
      if (handler->compatible() == left_out_) continue;
      TRY(luo.register_handler(*handler));
    }
    one = std::make_unique<FakeFlb>(events, "one");
    two = std::make_unique<FakeFlb>(events, "second");
    if (with_flbs) TRY(link_flbs());
    left_out_.clear();
    device_.make(luo);
    return loaded;
  }

 public:
  // a-file hangs on both states, b-file on the second only.
  Result<void> link_flbs() {
    with_flbs = true;
    TRY(luo().link_flb(*a, *one));
    TRY(luo().link_flb(*a, *two));
    return luo().link_flb(*b, *two);
  }

 private:
  Forgettable<HostFiles> files_;
  Forgettable<MemfdHandler> memfd_;
  Forgettable<Luo> luo_;
  Forgettable<Device> device_;
  std::string left_out_;
};

}  // namespace perdure::luo::test
