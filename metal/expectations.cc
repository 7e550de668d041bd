#include "metal/expectations.h"

#include "metal/report.h"

namespace perdure::metal {

namespace {

// Lists are open while their kind lasts: calls come grouped (HandoverVisitor).
class Teller final : public HandoverVisitor {
 public:
  explicit Teller(Event& event) : event_(event) {}
  ~Teller() { close_all(); }
  Teller(const Teller&) = delete;
  Teller& operator=(const Teller&) = delete;

  void session(const luo::SessionStatus& session) override {
    list("sessions");
    close_inner();
    event_.begin({}, '{').field("name", session.name);
    inner("files");
  }
  void file(const luo::FileStatus& file) override {
    event_.begin({}, '{').field("token", file.token).field("type", file.type).end('}');
  }
  void unit(const UnitInfo& unit) override {
    list("units");
    event_.begin({}, '{').field("base", unit.base.value).end('}');
  }
  void domain(const DomainDescription& domain) override {
    list("domains");
    close_inner();
    event_.begin({}, '{').field("token", domain.token).field("top", domain.top.value);
    event_.field("levels", domain.geometry.levels)
        .flag("first_stage", domain.geometry.format == pt::FormatId::X86FirstStage);
    event_.field("table_pages", domain.table_pages).field("mapped_bytes", domain.mapped_bytes);
    inner("areas");
  }
  void run(Iova iova, Phys phys, u64 length, Access access) override {
    event_.begin({}, '{').field("iova", iova.value).field("phys", phys.value).field("length", length);
    event_.flag("write", access == Access::ReadWrite || access == Access::Write).end('}');
  }
  void tables(Phys base, u64 length) override {
    if (!in_tables_) event_.end(']').begin("tables", '[');
    in_tables_ = true;
    event_.begin({}, '{').field("base", base.value).field("length", length).end('}');
  }
  void device(const DeviceDescription& device) override {
    list("devices");
    event_.begin({}, '{').field("segment", u64{device.source.segment}).field("bdf", u64{device.source.bdf});
    event_.field("unit", device.unit.value).field("did", device.did).field("top", device.top.value).end('}');
  }

 private:
  void list(std::string_view name) {
    if (name == list_) return;
    close_all();
    list_ = name;
    event_.begin(name, '[');
  }
  void inner(std::string_view name) {
    inner_ = true;
    in_tables_ = false;
    event_.begin(name, '[');
  }
  void close_inner() {
    if (inner_) event_.end(']').end('}');
    inner_ = false;
  }
  void close_all() {
    close_inner();
    if (!list_.empty()) event_.end(']');
    list_ = {};
  }

  Event& event_;
  std::string_view list_;
  bool inner_ = false;
  bool in_tables_ = false;
};

}  // namespace

void tell_expectations(Kernel& kernel) {
  Event event("expect");
  event.field("boot_info", kernel.next_boot_info().value).field("kho_fdt", kernel.kho().outgoing_fdt().value);
  Result<void> told;
  {
    Teller teller(event);
    told = kernel.describe_handover(teller);
  }
  event.flag("complete", told.has_value());
}

}  // namespace perdure::metal
